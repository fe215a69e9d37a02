from __future__ import annotations

import json
import random
from typing import Any

import pytest

from services.validator.doom import MAX_CLAIMS, Doom
from services.validator.fragments import Fragments, TooMuch
from services.validator.prefix import Prefix

DRAFT7 = "http://json-schema.org/draft-07/schema#"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0},
        "kind": {"enum": ["admin", "agent", 7]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+$"}, "maxItems": 2},
    },
    "required": ["name"],
    "additionalProperties": False,
}
LIST = {"properties": {"next": {"$ref": "#"}}, "maxProperties": 1}
ALONE = {"$schema": DRAFT7, "$ref": "#/definitions/s", "type": "null", "definitions": {"s": {"type": "string"}}}


def doomed_at(schema: Any, text: str) -> tuple[int, str, str] | None:
    """How many characters of `text` are needed to know, in which part, and why; None where it stays open."""
    doom = Doom(schema, Fragments(schema))
    prefix = Prefix(doom, max_depth=64)
    for at, char in enumerate(text):
        prefix.feed(char)
        if doom.sealed:
            return at + 1, doom.where, doom.why
    return None


@pytest.mark.parametrize(
    ("schema", "text", "known_by", "where"),
    [
        (PERSON, '["a"]', "[", ""),
        (PERSON, '{"name": 7}', '{"name": 7', "/name"),
        (PERSON, '{"name": "Annabel"}', '{"name": "Annabe', "/name"),
        (PERSON, '{"age": "7"}', '{"age": "', "/age"),
        (PERSON, '{"age": -7, "name": "A"}', '{"age": -7,', "/age"),
        (PERSON, '{"age": 7.5, "name": "A"}', '{"age": 7.5,', "/age"),
        (PERSON, '{"kind": "agile"}', '{"kind": "agi', "/kind"),
        (PERSON, '{"kind": true}', '{"kind": t', "/kind"),
        (PERSON, '{"kind": "age"}', '{"kind": "age"', "/kind"),
        (PERSON, '{"mood": 1}', '{"mood"', ""),
        (PERSON, '{"tags": ["a", "B"]}', '{"tags": ["a", "B"', "/tags/1"),
        (PERSON, '{"tags": ["a", "b", "c"]}', '{"tags": ["a", "b", "', "/tags"),
        (PERSON, '{"age": 7}', '{"age": 7}', ""),
        ({"items": PERSON}, '[{"name": "A"}, {"age": 1}]', '[{"name": "A"}, {"age": 1}', "/1"),
        ({"prefixItems": [{"type": "null"}], "items": False}, "[null, 1]", "[null, 1", "/1"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "1", "1", ""),
        ({"oneOf": [PERSON, {"type": "array"}]}, '{"age": "x"}', '{"age": "', "/age"),
        ({"allOf": [{"type": ["string", "number"]}, {"type": ["null", "string"]}]}, "1", "1", ""),
        ({"$ref": "#/$defs/p", "$defs": {"p": PERSON}}, '{"age": "x"}', '{"age": "', "/age"),
        (LIST, '{"next": {"a": 1, "b": 2}}', '{"next": {"a": 1, "b"', "/next"),
        ({"patternProperties": {"^n_": {"type": "number"}}}, '{"n_a": "x"}', '{"n_a": "', "/n_a"),
        ({"propertyNames": {"maxLength": 2}}, '{"abc": 1}', '{"abc"', ""),
        ({"const": {"a": 1}}, '{"a": 2}', '{"a": 2}', ""),
        ({"items": {"not": {"type": "null"}}}, "[1, null]", "[1, null", "/1"),
        (False, "1", "1", ""),
    ],
)  # fmt: skip
def test_it_is_known_as_soon_as_nothing_can_complete_it(schema: Any, text: str, known_by: str, where: str) -> None:
    found = doomed_at(schema, text)
    assert found is not None
    assert (text[: found[0]], found[1]) == (known_by, where)
    assert found[2]


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (PERSON, '{"name": "Anna", "age": 3, "kind": "agent", "tags": ["a", "b"]}'),
        ({"anyOf": [{"properties": {"a": {"type": "string"}}}, {"required": ["b"]}]}, '{"a": 1, "b": 2}'),
        (ALONE, '"x"'),
        ({"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}}, '{"a": 2}'),
        ({"$ref": "https://nowhere.test/schema"}, '{"a": 1}'),
        ({"$defs": {"x": {"$id": "https://nowhere.test/x", "$ref": "#/y"}}, "$ref": "#/$defs/x/y"}, "1"),
        ({"enum": [1.0]}, "1"),
        (True, "[1, {}]"),
    ],
)  # fmt: skip
def test_what_may_still_be_right_is_never_given_up(schema: Any, text: str) -> None:
    assert doomed_at(schema, text) is None


def test_how_the_text_is_cut_changes_neither_the_part_nor_the_reason() -> None:
    text, found = '{"tags": ["a", "Bad"], "name": "x"}', set()
    for seed in range(50):
        doom, cuts = Doom(PERSON, Fragments(PERSON)), random.Random(seed)
        prefix, at = Prefix(doom, max_depth=64), 0
        while not doom.sealed:
            size = cuts.randint(1, 9)
            prefix.feed(text[at : at + size])
            at += size
        found.add((doom.where, doom.why))
    assert len(found) == 1


def test_a_schema_that_makes_too_many_claims_is_not_followed() -> None:
    schema: dict[str, Any] = {"$defs": {"0": {}}}
    for level in range(20):
        schema["$defs"][str(level + 1)] = {"allOf": [{"$ref": f"#/$defs/{level}"}] * 2}
    schema["$ref"] = "#/$defs/20"
    assert MAX_CLAIMS < 2**20
    with pytest.raises(TooMuch):
        doomed_at(schema, json.dumps({"a": 1}))


HOSTILE = {
    "names": ({"allOf": [{"maxProperties": 9**9}] * 900}, "{" + ",".join(f'"{at}":1' for at in range(900))),
    "items": ({"allOf": [{"maxItems": 9**9}] * 900}, "[" + "1," * 4_000),
    "alternatives": ({"items": {"anyOf": [{"enum": list(range(4_000))}, {}]}}, "[" + '"",' * 2_700),
    "escapes": ({"items": {"anyOf": [{"maxLength": 9**9}] * 900}}, '["' + "\\n" * 4_000),
    "a long text": (
        {"items": {"anyOf": [{"allOf": [{"pattern": f"a*b{at}$"} for at in range(60)]}, {}]}},
        '["' + "ab" * 200_000 + '",1',
    ),
    "a long name": (
        {"propertyNames": {"anyOf": [{"pattern": f"a*b{at}$"} for at in range(60)]}},
        '{"' + "ab" * 200_000 + '"',
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_hold_up_all_others_is_left_to_the_end(name: str) -> None:
    schema, text = HOSTILE[name]
    prefix = Prefix(Doom(schema, Fragments(schema)), max_depth=64)
    with pytest.raises(TooMuch):
        prefix.feed(text)
