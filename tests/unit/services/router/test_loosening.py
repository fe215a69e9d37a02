"""What a schema says of the form of strings is not told where placeholders stand in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.router.loosening import loosen
from spillway import v1


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({"type": "string", "format": "email", "maxLength": 9}, {"type": "string"}),
        ({"items": [{"pattern": "^a"}, True], "minItems": 1}, {"items": [{}, True], "minItems": 1}),
        ({"properties": {"format": {"pattern": "x"}}}, {"properties": {"format": {}}}),
        (
            {"$defs": {"pattern": {"minLength": 1}}, "$ref": "#/$defs/pattern"},
            {"$defs": {"pattern": {}}, "$ref": "#/$defs/pattern"},
        ),
        ({"const": {"format": "x"}, "enum": [{"pattern": 1}]}, {"const": {"format": "x"}, "enum": [{"pattern": 1}]}),
        (False, False),
    ],
)
def test_forms_of_strings_go_and_names_and_values_that_look_alike_stay(schema: Any, left: Any) -> None:
    constraint = v1.OutputConstraint(json_schema=json.dumps(schema))
    constraint.schemas["urn:a"] = json.dumps(schema)
    loosen(constraint)
    assert json.loads(constraint.json_schema) == json.loads(constraint.schemas["urn:a"]) == left


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_what_is_no_schema_is_left_as_it_is(text: str) -> None:
    constraint = v1.OutputConstraint(json_schema=text)
    loosen(constraint)
    assert constraint.json_schema == text
    free = v1.OutputConstraint(json_object=True)
    loosen(free)
    assert free == v1.OutputConstraint(json_object=True)
