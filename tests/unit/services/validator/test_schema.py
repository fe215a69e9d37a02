from __future__ import annotations

import json
from typing import Any

import pytest

from services.validator.registered import FIELD
from services.validator.schema import Schema, Schemas, Unfinished
from services.validator.verdict import Finding, FindingKind
from spillway.errors import SchemaInvalid

DRAFT7 = "http://json-schema.org/draft-07/schema#"
KIND_A = {"properties": {"kind": {"const": "a"}, "size": {"type": "string"}}}
KIND_B = {"properties": {"kind": {"const": "b"}, "size": {"type": "integer"}}}
DRAFT2020 = "https://json-schema.org/draft/2020-12/schema"


def schema(value: Any) -> Schema:
    return Schema(json.dumps(value))


def findings(asked: Any, value: Any, limit: int = 32, max_chars: int = 300) -> list[Finding]:
    return list(schema(asked).findings(value, limit=limit, max_chars=max_chars)[0])


def refused(text: str) -> SchemaInvalid:
    with pytest.raises(SchemaInvalid) as caught:
        Schema(text)
    (violation,) = caught.value.fields
    assert violation.field == FIELD
    return caught.value


def test_every_finding_is_told_with_its_paths() -> None:
    asked = {
        "type": "object",
        "properties": {"a/b": {"type": "integer"}, "items": {"items": {"$ref": "#/$defs/item"}}},
        "required": ["name"],
        "$defs": {"item": {"maxLength": 2}},
    }
    found = findings(asked, {"a/b": "x", "items": ["ok", "long"]})
    assert {(one.path, one.schema_path) for one in found} == {
        ("", "/required"),
        ("/a~1b", "/properties/a~1b/type"),
        ("/items/1", "/$defs/item/maxLength"),
    }
    assert {one.kind for one in found} == {FindingKind.SCHEMA}


@pytest.mark.parametrize(
    ("asked", "value", "says"),
    [
        ({"type": "integer"}, "x", 'the value is a string; its type must be "integer"'),
        ({"type": ["integer", "null"]}, 1.5, 'the value is a number; its type must be "integer" or "null"'),
        ({"type": "string"}, None, 'the value is null; its type must be "string"'),
        ({"required": ["a"]}, {}, '"a" is a required property'),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, '"b" is a required property where the others are'),
        ({"minLength": 3}, "a", "is 1 character long; at least 3 are allowed"),
        ({"maxItems": 1}, [1, 2], "the array has 2 items; at most 1 are allowed"),
        ({"minProperties": 3}, {"a": 1, "b": 1}, "the object has 2 properties; at least 3 are allowed"),
        ({"minimum": 3}, 1, "must be at least 3"),
        ({"maximum": 3}, 5, "must be at most 3"),
        ({"exclusiveMinimum": 3}, 3, "must be greater than 3"),
        ({"exclusiveMaximum": 3}, 3, "must be less than 3"),
        ({"multipleOf": 2}, 3, "is not a multiple of 2"),
        ({"pattern": "^a"}, "b", 'does not match the regular expression "^a"'),
        ({"format": "date"}, "x", 'must be of the format "date", such as 2025-01-31'),
        ({"format": "iri"}, "x", 'must be of the format "iri"'),
        ({"uniqueItems": True}, [1, 1], "each may be there only once"),
        ({"const": {"a": 1}}, 2, 'the value must be {"a": 1}'),
        ({"const": "x" * 300}, 2, "x…"),
        ({"enum": ["x", 1]}, 2, 'the value is not one of: "x", 1'),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, "properties that are not allowed: 'b'"),
        ({"properties": {"z": {}}, "additionalProperties": False}, dict.fromkeys("abcdefg", 1), "'e' and 2 more"),
        ({"additionalProperties": False}, {"b": 1}, "no properties are allowed here"),
        ({"prefixItems": [{}], "items": False}, [1, 2], "more items than are allowed"),
        ({"prefixItems": [{}], "unevaluatedItems": False}, [1, 2], "does not provide for"),
        ({"$schema": DRAFT7, "items": [{}], "additionalItems": False}, [1, 2], "has 2 items; at most 1 are allowed"),
        ({"anyOf": [{"type": "string"}, {"properties": {"a": {"type": "null"}}}]}, {"a": 1}, 'be "null" (at /a)'),
        ({"oneOf": [KIND_A, KIND_B]}, {"kind": "b", "size": "x"}, 'its type must be "integer" (at /size)'),
        ({"oneOf": [{}, {"type": "null"}, {}]}, 1, "fits the alternatives 1 and 3 of oneOf"),
        ({"not": {"type": "integer"}}, 1, 'must not fit this schema: {"type": "integer"}'),
        ({"contains": {"type": "string"}}, [1], "no item of the kind"),
        ({"contains": {"type": "string"}, "minContains": 2}, ["a"], "too few items of the kind"),
        ({"contains": {"const": 1}, "maxContains": 1}, [1, 1], "too many items of the kind"),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, "'ab' is no name of a property here: the value is 2"),
        ({"propertyNames": False}, {"ab": 1}, "no properties are allowed here"),
        ({"properties": {"a": False}}, {"a": 1}, "no value is allowed here"),
        ({"$schema": DRAFT7, "contentEncoding": "base64"}, "%", 'not compliant with "base64"'),
    ],
)
def test_messages_say_what_to_do(asked: Any, value: Any, says: str) -> None:
    assert any(says in one.message for one in findings(asked, value))


def test_findings_and_messages_are_bounded() -> None:
    found = findings({"items": {"type": "string"}}, list(range(100)), limit=10)
    assert len(found) == 10
    assert found[-1].message == "and 91 more findings"
    (long,) = findings({"required": ["x" * 1000]}, {}, max_chars=50)
    assert len(long.message) == 50


def test_the_draft_is_what_schema_names_and_2020_12_without() -> None:
    tuples = {"items": [{"type": "integer"}]}
    assert not schema({"$schema": DRAFT7, **tuples}).accepts(["x"])
    assert not schema({"prefixItems": [{"type": "integer"}]}).accepts(["x"])
    assert not schema({"$schema": DRAFT2020, "prefixItems": [{"type": "integer"}]}).accepts(["x"])
    assert schema({"$schema": DRAFT7, "prefixItems": [{"type": "integer"}]}).accepts(["x"])
    error = refused(json.dumps({"$schema": "http://x.example/mine"}))
    assert "'/$schema'" in error.message
    assert "draft 7 or 2020-12" in error.message


@pytest.mark.parametrize("draft", [DRAFT7, DRAFT2020])
@pytest.mark.parametrize(
    ("format", "wrong"), [("date", "2025-02-30"), ("email", "nobody"), ("uuid", "1"), ("ipv4", "1.2.3")]
)
def test_formats_are_asserted(draft: str, format: str, wrong: str) -> None:
    if format != "uuid" or draft != DRAFT7:  # draft 7 knows no uuid
        assert not schema({"$schema": draft, "format": format}).accepts(wrong)


@pytest.mark.parametrize(
    "reference",
    ["http://x.example/a.json", "https://x.example/a.json#/b", "file:///etc/passwd", "other.json", "ftp://x.example/a"],
)
def test_a_remote_reference_is_refused_and_never_fetched(reference: str) -> None:
    error = refused(json.dumps({"properties": {"a": {"$ref": reference}}}))
    assert "'/properties/a/$ref'" in error.message
    assert reference in error.message
    assert "never fetched" in error.message


def test_local_references_work() -> None:
    by_pointer = schema({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}})
    by_anchor = schema({"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "integer"}}})
    by_id = schema({"$id": "http://x.example/root", "$ref": "a", "$defs": {"a": {"$id": "a", "type": "integer"}}})
    for local in (by_pointer, by_anchor, by_id):
        assert local.accepts(1)
        assert not local.accepts("x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("3", "a JSON object or a boolean"),
        ('{"a": 1, "a": 2}', "appears twice"),
        ('{"properties": {"a": {"type": "strin"}}}', "'/properties/a/type'"),
        ('{"items": {"minLength": -1}}', "'/items/minLength'"),
        ('{"$ref": "#/$defs/no"}', "'/$ref': '#/$defs/no' refers to nothing"),
        ('{"properties": {"a": {"pattern": "("}}}', "'/properties/a/pattern': '(' is not a regular expression"),
        ('{"not":' * 300 + "{}" + "}" * 300, "nested deeper"),
    ],
)
def test_an_invalid_schema_is_refused_with_its_place(text: str, says: str) -> None:
    assert says in refused(text).message


def test_a_pattern_that_cannot_be_linear_is_heavy_and_still_works() -> None:
    looking = schema({"pattern": "^(?!no)"})
    assert looking.weight is None
    assert looking.accepts("yes")
    assert not looking.accepts("no")


def test_a_linear_pattern_is_not_stalled() -> None:
    assert not schema({"pattern": "^(a+)+$"}).accepts("a" * 100_000 + "!")


def test_a_pattern_that_gives_up_is_not_taken_for_a_finding() -> None:
    with pytest.raises(Unfinished):
        findings({"pattern": r"(x+x+)+\1y"}, "x" * 60)


@pytest.mark.parametrize(
    ("asked", "hopeless"),
    [
        (False, True),
        ({"allOf": [{}, False]}, True),
        ({"$ref": "#/$defs/never", "$defs": {"never": False}}, True),
        ({"if": {"type": "object"}, "then": False}, False),
        ({"properties": {"a": False}}, False),
        ({"type": "string"}, False),
    ],
)
def test_a_schema_that_nothing_satisfies_is_told_from_a_hard_one(asked: Any, hopeless: bool) -> None:
    assert schema(asked).findings({"a": 1}, limit=32, max_chars=300)[1] is hopeless


def test_compiled_schemas_are_kept_by_content_within_bounds() -> None:
    schemas = Schemas(limit=2, limit_bytes=1000)
    first = schemas.get('{"type": "string"}')
    schemas.get('{"type": "null"}')
    assert schemas.get('{"type": "string"}') is first
    schemas.get('{"type": "integer"}')
    assert ('{"type": "null"}', ()) not in schemas
    assert schemas.get('{"type": "string"}') is first
    schemas.get(json.dumps({"title": "x" * 990}))
    assert len(schemas) == 0
    with pytest.raises(SchemaInvalid):
        schemas.get("{")
    assert len(schemas) == 0
    assert repr(schemas) == "<Schemas 0/2, 0 bytes>"
