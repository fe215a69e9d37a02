"""A schema and those it refers to, told as one document in which every reference is a pointer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spillway.bundle import MAX_CHARS, Unbundled, bundle, bundled, is_absolute

DRAFT7 = "http://json-schema.org/draft-07/schema#"
A, B = "https://x.example/a.json", "https://x.example/b.json"


def test_what_is_referred_to_comes_along_and_nothing_else_does() -> None:
    others = {A: {"$id": A, "items": {"$ref": "b.json#/$defs/c"}}, B: {"$defs": {"c": {"type": "null"}}}, "urn:z": True}
    found = bundle({"$ref": A}, others)
    assert found.schema == {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"items": {"$ref": "#/$defs/b/$defs/c"}}, "b": {"$defs": {"c": {"type": "null"}}}},
    }
    assert found.reached == (A, B)


def test_names_are_nobody_elses_and_older_drafts_keep_them_under_definitions() -> None:
    root = {"$schema": DRAFT7, "definitions": {"a": {}}, "allOf": [{"$ref": A}, {"$ref": "urn:x:a"}]}
    found = bundle(
        root, {A: {"$schema": DRAFT7, "type": "null"}, "urn:x:a": {"$schema": DRAFT7, "$ref": "#/not", "not": {}}}
    )
    assert found.schema["allOf"] == [{"$ref": "#/definitions/a_1"}, {"$ref": "#/definitions/a_2"}]
    assert found.schema["definitions"] == {
        "a": {},
        "a_1": {"type": "null"},
        "a_2": {"$ref": "#/definitions/a_2/not", "not": {}},
    }


@pytest.mark.parametrize("schema", [True, {"type": "null"}, {"$ref": "#/$defs/a", "$defs": {"a": {}}}, {"$ref": "#a"}])
def test_what_refers_to_itself_alone_stays_as_it_is(schema: Any) -> None:
    assert bundle(schema, {A: {}}).schema == schema
    assert bundled(json.dumps(schema), {A: "{}"}) == json.dumps(schema)


def test_its_own_name_and_data_that_look_like_a_schema_are_told_apart() -> None:
    data = {"enum": [{"$ref": A}], "const": {"$id": "x"}, "properties": {"$ref": {"$ref": A}, "const": {"$ref": A}}}
    found = bundle({"$id": "https://x.example/root", "not": {"$ref": "root#/not"}, **data}, {A: {"type": "null"}})
    assert found.schema["not"] == {"$ref": "#/not"}
    assert (found.schema["enum"], found.schema["const"]) == (data["enum"], data["const"])
    assert found.schema["properties"] == {"$ref": {"$ref": "#/$defs/a"}, "const": {"$ref": "#/$defs/a"}}


@pytest.mark.parametrize(
    ("schema", "others"),
    [
        ({"$ref": A}, {}),
        ({"$ref": f"{A}#/no"}, {A: {}}),
        ({"$ref": f"{A}#anchor"}, {A: {"$anchor": "anchor"}}),
        ({"$ref": A}, {A: {"$anchor": "anchor"}}),
        ({"$ref": A}, {A: {"$schema": DRAFT7}}),
        ({"$ref": A}, {A: {"items": {"$id": "part"}}}),
        ({"$ref": A, "items": {"$id": "https://y.example/", "$ref": "b"}}, {A: {}}),
        ({"$ref": A}, {A: {}, B: {"$id": A}}),
        ({"$ref": A, "$dynamicRef": "#x"}, {A: {}}),
        ({"$dynamicRef": f"{A}#x"}, {A: {}}),
        ({"$schema": DRAFT7, "$ref": A}, {A: {"$schema": DRAFT7, "$id": "b.json", "$ref": "#/x"}}),
        ({"$ref": "https://x.example/%61.json"}, {"https://x.example/%61.json": {}}),
        ({"$ref": "https://X.example/a.json"}, {"https://X.example/a.json": {}}),
        ({"$ref": "https://x.example"}, {"https://x.example": {}}),
        ({"$ref": "https://x.example:443/a"}, {"https://x.example:443/a": {}}),
        ({"$ref": "https://x.example/b/../a.json"}, {A: {}}),
        ({"$ref": A, "$defs": 3}, {A: {}}),
    ],
)
def test_what_a_pointer_does_not_say_is_not_bundled(schema: Any, others: dict[str, Any]) -> None:
    with pytest.raises(Unbundled):
        bundle(schema, others)


def test_a_text_that_is_no_json_is_not_bundled() -> None:
    with pytest.raises(Unbundled, match="not JSON"):
        bundled(json.dumps({"$ref": A}), {A: "{"})


def test_no_more_is_bundled_than_takes_a_moment() -> None:
    with pytest.raises(Unbundled, match="more than"):
        bundled(json.dumps({"$ref": A}), {A: json.dumps({"title": "x" * MAX_CHARS})})


@pytest.mark.parametrize(
    ("uri", "absolute"), [(A, True), ("urn:x:a", True), ("a", False), (f"{A}#x", False), ("x:" + "a" * 3000, False)]
)
def test_a_schema_is_named_by_an_absolute_uri_without_a_fragment(uri: str, absolute: bool) -> None:
    assert is_absolute(uri) is absolute
