from __future__ import annotations

from typing import Any

import pytest

from services.validator.instruction import MAX_CHARS, instruction, shape
from services.validator.verdict import Constraint, Finding, FindingKind

WRONG = [Finding(FindingKind.SCHEMA, "must be a or b", "/label")]


@pytest.mark.parametrize(
    ("schema", "form"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["integer", "null"]}, "integer | null"),
        ({"type": "integer", "minimum": 0, "maximum": 9}, "integer (from 0, to 9)"),
        ({"enum": ["a", 1, None]}, '"a" | 1 | null'),
        ({"type": "array", "items": {"const": "x"}}, '["x", ...]'),
        (
            {
                "properties": {"label": {"enum": ["a", "b"]}, "note": {"type": "string"}},
                "required": ["label", "id"],
                "additionalProperties": False,
            },
            '{"label": "a" | "b", "note"?: string, "id": any}',
        ),
        ({"type": "object"}, "{...}"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "number"}}}, "null | number"),
        ({"$ref": "#/$defs/gone"}, "any"),
        (True, "any"),
    ],
)
def test_the_form_of_a_schema_is_one_line(schema: Any, form: str) -> None:
    assert shape(schema) == form


def test_alternatives_stand_beside_what_holds_for_all() -> None:
    both = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    assert shape({**both, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}) == '{"a"?: string}'
    assert shape({"type": "string", "anyOf": [{"const": "x"}, {"const": "y"}]}) == 'string & ("x" | "y")'


def test_many_types_at_many_levels_do_not_multiply() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(8):
        kinds = ["object", "array", "string", "number", "boolean", "null", "integer"]
        schema = {"type": kinds, "properties": {"a": schema}}
    assert len(shape(schema)) < 2_000


def test_findings_leave_room_for_what_is_wanted() -> None:
    many = [Finding(FindingKind.SCHEMA, "x" * 1000, f"/{number}") for number in range(8)]
    assert instruction(Constraint("json_schema", "{}"), shape({"const": "a"}), many).endswith('"a"')


def test_a_schema_that_holds_itself_has_a_form_that_ends() -> None:
    assert len(shape({"properties": {"next": {"$ref": "#"}}})) < 500


def test_the_model_is_told_what_was_wrong_and_what_is_wanted() -> None:
    said = instruction(Constraint("json_schema", "{}"), shape({"enum": ["a", "b"]}), WRONG)
    assert "- /label: must be a or b" in said
    assert said.endswith('"a" | "b"')
    assert "yes" in instruction(Constraint("choices", choices=("yes", "no")), None, WRONG)
    assert "a+b" in instruction(Constraint("regex", "a+b"), None, WRONG)
    assert "object" in instruction(Constraint("json_object"), None, WRONG)


def test_what_is_said_is_bounded() -> None:
    many = [Finding(FindingKind.SCHEMA, "x" * 300, f"/{number}") for number in range(1000)]
    choices = tuple(f"choice {number}" for number in range(5000))
    assert len(instruction(Constraint("choices", choices=choices), None, many)) <= MAX_CHARS
