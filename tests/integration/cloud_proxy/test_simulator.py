"""The simulated provider itself: it says that it is simulated, and answers as it is held to."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import jsonschema_rs
import pytest

from spillway.testing.openai_faults import Faults, Status
from spillway.testing.openai_instance import instance
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "string", "minLength": 20}, "b": {}}, "required": ["a"]},
    {"type": "array", "minItems": 2, "items": {"type": "integer", "exclusiveMinimum": 3, "multipleOf": 4}},
    {"type": "object", "required": ["x"], "properties": {"x": {"$ref": "#/$defs/p"}}, "$defs": {"p": {"const": 7}}},
    {"type": ["null", "string"], "maxLength": 3},
    {"anyOf": [{"type": "object", "required": ["k"], "properties": {"k": {"enum": ["b", "c"]}}}, {"type": "null"}]},
    {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "boolean"}}}], "type": "object"},
    {"type": "number", "maximum": -2.5},
    {"type": "string", "format": "date-time"},
    {"prefixItems": [{"type": "integer"}, {"type": "null"}], "minItems": 2},
    {"type": "object", "required": ["free"], "properties": {}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_answer_held_to_a_schema_satisfies_it(schema: dict[str, Any]) -> None:
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(instance(schema))


def test_a_schema_that_refers_to_itself_ends() -> None:
    node = {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}}
    assert json.dumps(instance(node))


async def test_requests_are_recorded_without_their_key() -> None:
    simulator = OpenAISimulator()
    body = {"model": "m", "messages": [{"role": "user", "content": "one two"}], "stop": ["two"]}
    async with serving_openai(simulator) as url, aiohttp.ClientSession() as session:
        headers = {"authorization": "Bearer sk-secret"}
        async with session.post(f"{url}/chat/completions", json=body, headers=headers) as response:
            told = await response.json()
            assert response.headers["x-ratelimit-limit-requests"] == "10000"
    assert told["choices"][0]["message"]["content"] == "Simulated cloud answer to: one "
    assert (told["model"], told["system_fingerprint"]) == ("m-simulated", "fp_simulated")
    [seen] = simulator.seen
    assert (seen.key_sent, seen.finished, seen.running, seen.body) == (True, True, 1, body)
    assert "sk-secret" not in repr(simulator.seen)


async def test_faults_come_in_their_order_and_then_it_answers() -> None:
    simulator = OpenAISimulator(faults=Faults(Status(500), None, Status(418)))
    statuses = []
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    async with serving_openai(simulator) as url, aiohttp.ClientSession() as session:
        for _ in range(4):
            async with session.post(f"{url}/chat/completions", json=body) as response:
                statuses.append(response.status)
    assert statuses == [500, 200, 418, 200]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "m", "messages": []}',
        b'{"model": "m", "messages": [{}], "stream_options": {}}',
        b'{"model": "m", "messages": [{}], "top_logprobs": 2}',
    ],
)
async def test_a_bad_request_gets_an_error_in_openais_shape(body: bytes) -> None:
    async with (
        serving_openai(OpenAISimulator()) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", data=body) as response,
    ):
        told = await response.json()
    assert response.status == 400
    assert set(told["error"]) == {"message", "type", "param", "code"}
