from __future__ import annotations

from typing import Any

import pytest

from services.validator.weight import MAX_WEIGHT, costly, weigh


def doubled(levels: int) -> dict[str, Any]:
    """A schema of a few hundred bytes that asks for 2 ** levels steps."""
    definitions: dict[str, Any] = {"d0": {"type": "integer"}}
    for level in range(1, levels + 1):
        definitions[f"d{level}"] = {"allOf": [{"$ref": f"#/$defs/d{level - 1}"}] * 2}
    return {"$ref": f"#/$defs/d{levels}", "$defs": definitions}


def test_an_ordinary_schema_is_light() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/b"}},
        "$defs": {"b": {}},
    }
    weight = weigh(schema)
    assert weight is not None
    assert weight < 20


def test_references_are_written_out() -> None:
    weights = [weigh(doubled(levels)) for levels in (2, 4, 6)]
    assert None not in weights
    assert weights[2] > 10 * weights[0]  # type: ignore[operator]
    assert weigh(doubled(30)) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"next": {"$ref": "#"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"not": {"$ref": "#/$defs/a"}}}},
        {"$dynamicRef": "#node"},
        {"$ref": "other.json"},
        {"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}},
        {"$defs": {"a": {"$id": "http://x.example/a", "$ref": "#/$defs/b"}}},
        {"enum": list(range(MAX_WEIGHT + 1))},
        {"pattern": "a{1000}{1000}"},
        {"patternProperties": {"(a{100}){100}": {}}},
        {"allOf": [{"pattern": f"a{n}"} for n in range(100)]},
    ],
)
def test_what_can_take_long_is_heavy(schema: Any) -> None:
    assert weigh(schema) is None


def test_a_schema_nested_beyond_the_stack_is_heavy() -> None:
    schema: dict[str, Any] = {}
    for _ in range(10_000):
        schema = {"not": schema}
    assert weigh(schema) is None


def test_booleans_weigh_one() -> None:
    assert weigh(True) == weigh(False) == 1


def test_a_pattern_is_costly_by_its_repetitions_and_length() -> None:
    assert not costly(r"^[a-z]{2,10}(-\d{4}){0,3}$")
    assert costly("(a{50}){50}")
    assert costly("a{,99999}")
    assert costly("a" * 3_000)


DRAFT4 = "http://json-schema.org/draft-04/schema#"


@pytest.mark.parametrize(
    ("root", "part"),
    [({"$schema": DRAFT4}, {"id": "http://x.example/a"}), ({}, {"$schema": DRAFT4, "id": "http://x.example/a"})],
)
def test_references_below_a_name_of_its_own_are_not_taken_for_those_of_the_root(
    root: dict[str, str], part: dict[str, str]
) -> None:
    inner = doubled(30)
    light: dict[str, Any] = {name: {} for name in inner["$defs"]}
    assert weigh({**root, "$defs": light, "properties": {"a": {**part, **inner}}}) is None


@pytest.mark.parametrize("word", ["unevaluatedProperties", "unevaluatedItems"])
def test_what_has_all_beside_it_asked_again_weighs_more_on_every_level(word: str) -> None:
    schema: dict[str, Any] = {}
    for _ in range(3):
        schema = {"anyOf": [schema], word: False}
    assert weigh(schema) is not None
    for _ in range(12):
        schema = {"anyOf": [schema], word: False}
    assert weigh(schema) is None


@pytest.mark.parametrize("pattern", ["[^a]{{900}}{}", r"\p{{L}}{{3}}{}"])
def test_patterns_that_are_large_together_are_heavy(pattern: str) -> None:
    patterns = [{"pattern": pattern.format(at)} for at in range(60)]
    assert weigh({"allOf": patterns[:2]}) is not None
    assert weigh({"allOf": patterns}) is None


def test_a_name_of_draft_4_where_nothing_refers_moves_nothing() -> None:
    named = {"id": "http://x.example/a", "type": "string"}
    assert weigh(
        {"$schema": DRAFT4, "properties": {"a": named, "b": {"$ref": "#/definitions/c"}}, "definitions": {"c": {}}}
    )
