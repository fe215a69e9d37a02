"""Schemas that refer to others: those a caller brings along, those of the settings, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.validator.judgement import Judge
from services.validator.registered import Registered
from services.validator.schema import Brought, Reading, Schema, Schemas
from services.validator.schema_files import read_schemas
from services.validator.settings import JudgementSettings, ValidatorSettings
from services.validator.verdict import Constraint
from services.validator.weight import MAX_WEIGHT
from spillway.errors import SchemaInvalid
from spillway.settings import SettingsError

DRAFT4 = "http://json-schema.org/draft-04/schema#"
DRAFT6 = "http://json-schema.org/draft-06/schema#"
DRAFT7 = "http://json-schema.org/draft-07/schema#"
DRAFT2019 = "https://json-schema.org/draft/2019-09/schema"
ADDRESS = {
    "$id": "https://x.example/address",
    "type": "object",
    "properties": {"zip": {"$ref": "zip#/$defs/code"}, "street": {"type": "string"}},
    "required": ["zip"],
}
ZIP = {"$defs": {"code": {"type": "string", "pattern": "^[0-9]{5}$"}}}
PERSON = {"properties": {"name": {"type": "string"}, "home": {"$ref": "https://x.example/address"}}}


def brought(schemas: dict[str, Any]) -> Brought:
    return tuple(sorted((uri, json.dumps(schema)) for uri, schema in schemas.items()))


KNOWN = brought({"https://x.example/address": ADDRESS, "https://x.example/zip": ZIP})


def schema(value: Any, others: dict[str, Any] | None = None) -> Schema:
    return Schema(json.dumps(value), brought(others or {}))


@contextmanager
def refused(
    value: Any, others: dict[str, Any] | None = None, *, field: str = "constraint.json_schema"
) -> Iterator[Any]:
    with pytest.raises(SchemaInvalid) as caught:
        schema(value, others)
    assert [violation.field for violation in caught.value.fields] == [field]
    yield caught.value


def test_a_schema_refers_to_those_that_come_with_it_and_these_to_one_another() -> None:
    person = Schema(json.dumps(PERSON), KNOWN)
    assert person.accepts({"home": {"zip": "75001"}})
    assert not person.accepts({"home": {"zip": "7500"}})
    assert not person.accepts({"home": {}})


def test_a_finding_in_another_schema_names_it() -> None:
    found, _ = Schema(json.dumps(PERSON), KNOWN).findings({"name": 1, "home": {"zip": "x"}}, limit=9, max_chars=300)
    assert {(one.path, one.schema_path) for one in found} == {
        ("/name", "/properties/name/type"),
        ("/home/zip", "https://x.example/zip#/$defs/code/pattern"),
    }


@pytest.mark.parametrize(
    ("value", "others", "right", "wrong"),
    [
        ({"$id": "https://x.example/a/b", "$ref": "c"}, {"https://x.example/a/c": {"type": "null"}}, None, 1),
        (
            {"$ref": "https://x.example/a#part"},
            {"https://x.example/a": {"$defs": {"p": {"$anchor": "part", "type": "null"}}}},
            None,
            1,
        ),
        ({"$ref": "https://x.example/b"}, {"https://x.example/a": {"$id": "b", "type": "null"}}, None, 1),
        (
            {"$ref": "urn:example:tree", "$defs": {"leaf": {"$dynamicAnchor": "node", "type": "integer"}}},
            {"urn:example:tree": {"items": {"$dynamicRef": "#node"}, "$defs": {"n": {"$dynamicAnchor": "node"}}}},
            [1],
            ["x"],
        ),
        (
            {"$schema": DRAFT2019, "$id": "urn:example:closed", "$recursiveAnchor": True, "$ref": "urn:example:open"},
            {
                "urn:example:open": {
                    "$schema": DRAFT2019,
                    "$recursiveAnchor": True,
                    "maxProperties": 1,
                    "additionalProperties": {"$recursiveRef": "#"},
                }
            },
            {"a": {"b": {}}},
            {"a": {"b": {}, "c": {}}},
        ),
        (
            {"$schema": DRAFT4, "$ref": "https://x.example/low"},
            {"https://x.example/low": {"$schema": DRAFT4, "maximum": 3, "exclusiveMaximum": True}},
            2,
            3,
        ),
        (
            {"$schema": DRAFT6, "$ref": "https://x.example/low"},
            {"https://x.example/low": {"$schema": DRAFT6, "exclusiveMaximum": 3}},
            2,
            3,
        ),
        (
            {"$schema": DRAFT7, "properties": {"s": {"$ref": DRAFT7}}},
            {},
            {"s": {"type": "null"}},
            {"s": {"type": "no"}},
        ),
    ],
)
def test_bases_anchors_and_references_that_depend_on_where_one_came_from_work(
    value: Any, others: dict[str, Any], right: Any, wrong: Any
) -> None:
    found = schema(value, others)
    assert found.accepts(right)
    assert not found.accepts(wrong)


@pytest.mark.parametrize(
    ("others", "uri", "says"),
    [
        ({"https://x.example/a": {"type": "strin"}}, "https://x.example/a", "'/type'"),
        ({"https://x.example/a": {"items": {"minLength": -1}}}, "https://x.example/a", "'/items/minLength'"),
        ({"https://x.example/a": {"items": {"pattern": "("}}}, "https://x.example/a", "'/items/pattern'"),
        ({"https://x.example/a": {"items": {"$ref": "b"}}}, "https://x.example/a", "'/items/$ref': 'b' is a remote"),
        ({"https://x.example/a": {"$schema": "http://x.example/own"}}, "https://x.example/a", "'/$schema'"),
        ({"https://x.example/a": {"$ref": "#/$defs/no"}}, "https://x.example/a", "refers to nothing"),
        ({"https://x.example/a": 3}, "https://x.example/a", "a JSON object or a boolean"),
        ({"a": {}}, "a", "no absolute URI"),
        ({"https://x.example/a#b": {}}, "https://x.example/a#b", "no absolute URI"),
        ({DRAFT7.rstrip("#"): {}}, DRAFT7.rstrip("#"), "registered already"),
    ],
)
def test_an_invalid_schema_that_came_along_is_named_with_its_place(others: dict[str, Any], uri: str, says: str) -> None:
    with refused({"$ref": "https://x.example/a"}, others, field=f"constraint.schemas[{uri}]") as error:
        assert says in error.message


async def test_nothing_is_fetched_wherever_it_is_named() -> None:
    connections = 0

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(met, "127.0.0.1", 0) as server:
        at = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for value, others in (
            ({"$ref": f"{at}/a"}, {}),
            ({"$schema": f"{at}/a"}, {}),
            ({"$dynamicRef": f"{at}/a#b"}, {}),
            ({"$id": f"{at}/a", "$ref": "b"}, {}),
            ({"$ref": "urn:example:a"}, {"urn:example:a": {"$ref": f"{at}/a"}}),
            ({"$ref": "urn:example:a"}, {"urn:example:a": {"$schema": f"{at}/a"}}),
            ({"$ref": "urn:example:a"}, {"urn:example:a": {"$id": f"{at}/a", "$ref": "b"}}),
        ):
            with pytest.raises(SchemaInvalid, match=r"never fetched|no draft that is known"):
                await asyncio.to_thread(schema, value, others)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        assert await reader.read()
        writer.close()
    assert connections == 1  # the one that was made last, to see that it counts


def test_one_that_comes_along_is_weighed_where_it_is_referred_to() -> None:
    assert 10 < (Schema(json.dumps(PERSON), KNOWN).weight or 0) < 50
    large = {"https://x.example/a": {"enum": list(range(6_000))}}
    assert schema({"$ref": "https://x.example/a"}, large).weight is None
    assert schema({"type": "null"}, large).weight == 2
    doubled = {f"urn:example:{level}": {"allOf": [{"$ref": f"urn:example:{level - 1}"}] * 2} for level in range(1, 40)}
    assert schema({"$ref": "urn:example:39"}, {**doubled, "urn:example:0": {}}).weight is None
    tree = {"urn:example:tree": {"items": {"$ref": "urn:example:tree"}}}
    assert schema({"$ref": "urn:example:tree"}, tree).weight is None
    decoy = {"urn:example:a": {}, "urn:example:b": {"$id": "urn:example:a", "enum": list(range(6_000))}}
    assert schema({"$ref": "urn:example:a"}, decoy).weight is None


def test_a_schema_is_known_by_its_own_name_in_its_findings() -> None:
    for name in ({"$id": "https://x.example/p"}, {"$schema": DRAFT4, "id": "https://x.example/p#"}):
        found, _ = schema({**name, "properties": {"a": {"type": "null"}}}).findings({"a": 1}, limit=9, max_chars=300)
        assert [one.schema_path for one in found] == ["/properties/a/type"]


def test_a_reference_that_is_written_with_escapes_is_found() -> None:
    text = json.dumps({"$ref": "urn:example:a"}).replace("$", "\\u0024")
    assert not Schema(text, brought({"urn:example:a": {"type": "null"}})).accepts(1)


def test_what_is_brought_along_is_part_of_what_is_kept() -> None:
    schemas = Schemas(limit=9, limit_bytes=10_000)
    text = '{"$ref": "urn:example:a"}'
    for kind, right in (("null", None), ("integer", 1)):
        with_it = brought({"urn:example:a": {"type": kind}})
        assert schemas.get(text, with_it).accepts(right)
        assert schemas.get(text, with_it) is schemas.get(text, with_it)
    assert len(schemas) == 2
    assert not schemas.at_hand(text, brought({"urn:example:a": {"title": "x" * 40_000}}))
    for _ in range(2):  # that it is heavy is found once, and remembered
        assert not schemas.at_hand(text, brought({"urn:example:a": {"$ref": "#"}}))


@pytest.mark.parametrize(
    ("text", "early"),
    [('{"name": "Ann", "home": {"zip": "75001"}}', False), ('{"home": {"zip": 7, "street": "a"}, "name": "x"}', True)],
)
def test_an_answer_is_followed_through_references_to_others(text: str, early: bool) -> None:
    judge = Judge(JudgementSettings())
    watch = judge.watch(Constraint("json_schema", json.dumps(PERSON), schemas=KNOWN))
    verdicts = [watch.take(char) for char in text]
    assert any(verdicts) is early
    assert not early or verdicts.index(next(filter(None, verdicts))) < text.index("street")


def settings_of(folder: Path, schemas: dict[str, Any], **judgement: Any) -> ValidatorSettings:
    paths = {}
    for number, (uri, told) in enumerate(schemas.items()):
        paths[uri] = folder / f"{number}.json"
        paths[uri].write_text(told if isinstance(told, str) else json.dumps(told))
    return ValidatorSettings(schemas=paths, judgement=JudgementSettings(**judgement))


def test_schemas_of_the_settings_are_known_to_every_schema_and_no_caller_may_give_them_another_meaning(
    tmp_path: Path,
) -> None:
    known = {"https://x.example/address": ADDRESS, "https://x.example/zip": ZIP}
    settled = Registered().joined(read_schemas(settings_of(tmp_path, known)).items())
    person = Schema(json.dumps(PERSON), settled=settled)
    assert person.accepts({"home": {"zip": "75001"}})
    assert not person.accepts({"home": {}})
    assert person.weight is not None
    others: list[dict[str, Any]] = [{"https://x.example/zip": {}}, {"urn:example:z": {"$id": "https://x.example/zip"}}]
    for own in others:
        with pytest.raises(SchemaInvalid, match="registered already") as caught:
            Schema(json.dumps(PERSON), brought(own), settled)
        assert caught.value.fields[0].field == f"constraint.schemas[{next(iter(own))}]"


@pytest.mark.parametrize(
    ("schemas", "says"),
    [
        ({"urn:example:a": "{"}, r"validator\.schemas\.urn:example:a: .*0\.json: it is not JSON"),
        ({"urn:example:a": {"type": "no"}}, r"validator\.schemas\.urn:example:a: .*0\.json: at '/type'"),
        ({"urn:example:a": {}, "urn:example:b": {"$ref": "urn:example:c"}}, r"example:b: .*1\.json: at '/\$ref'"),
        ({"a": {}}, r"validator\.schemas\.a: .*absolute URI"),
        ({"urn:example:a": {"title": "x" * 2_000}}, "max_registered_bytes allows 1000"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_schema_of_the_settings_is_a_mistake_of_the_settings(
    tmp_path: Path, schemas: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        read_schemas(settings_of(tmp_path, schemas, max_registered_bytes=1000))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = ValidatorSettings(schemas={"urn:example:a": tmp_path / "no.json"})
    with pytest.raises(SettingsError, match=r"validator\.schemas\.urn:example:a: cannot read .*no\.json"):
        read_schemas(settings)


def test_a_large_schema_of_the_settings_is_not_read_through_where_others_wait() -> None:
    large = {"$defs": {f"d{at}": {"type": "object"} for at in range(MAX_WEIGHT)}, "type": "object"}
    settled = Registered().joined(brought({"https://x.example/large": large}))
    schemas = Schemas(limit=4, limit_bytes=2**20, settled=settled)
    text = json.dumps({"$ref": "https://x.example/large"})
    assert Reading.of(text, (), settled).reached is not None
    assert Reading.of(text, (), settled, most=MAX_WEIGHT).reached is None
    assert not schemas.at_hand(text)
