from __future__ import annotations

from typing import Any

import pytest

from spillway.records import array_of

ROWS = {"type": "array", "items": {"type": "object"}}
DEFS = {"$defs": {"rows": ROWS, "again": {"$ref": "#/$defs/rows"}}}
NAMED = {"type": "object", "properties": {"total": {"type": "integer"}, "rows": {"$ref": "#/$defs/rows"}}}


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        (ROWS, ()),
        ({"type": ["null", "array"]}, ()),
        ({"$ref": "#/$defs/again", **DEFS}, ()),
        ({**NAMED, **DEFS}, ("rows",)),
        ({"$ref": "#/$defs/named", "$defs": {"named": NAMED, "rows": ROWS}}, ("rows",)),
        ({"properties": {"rows": ROWS, "label": {}}}, ("rows",)),
        ({"properties": {"rows": ROWS, "other": {"anyOf": [ROWS, {"type": "null"}]}}}, ("rows",)),
    ],
)
def test_records_are_the_items_of_the_root_or_of_its_only_array(schema: Any, found: tuple[str, ...]) -> None:
    assert array_of(schema) == found


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object"},
        {"items": ROWS},
        {"properties": {"rows": ROWS, "more": ROWS}},
        {"properties": {"rows": {"anyOf": [ROWS, {"type": "null"}]}}},
        {"properties": {"inner": {"type": "object", "properties": {"rows": ROWS}}}},
        {"properties": {"rows": {"$ref": "https://nowhere.test/rows"}}},
        {"properties": ["rows"]},
        {"$ref": "#"},
        {"$ref": "#/$defs/nothing"},
    ],
)
def test_a_schema_that_does_not_say_which_array_it_is_has_no_records(schema: Any) -> None:
    assert array_of(schema) is None
