"""The simulated provider itself: it says that it is simulated, and answers as it is held to."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import jsonschema_rs
import pytest

from spillway.openai.errors import duration_s
from spillway.testing.openai_faults import Faults, Status
from spillway.testing.openai_instance import instance
from spillway.testing.openai_limits import Bucket, Limits, duration
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


async def test_the_limit_headers_count_what_was_used_and_fill_up_again() -> None:
    simulator = OpenAISimulator(limits=Limits(requests=Bucket(60), tokens=Bucket(6000)))
    body = {"model": "m", "messages": [{"role": "user", "content": "one two"}]}
    async with serving_openai(simulator) as url, aiohttp.ClientSession() as session:
        for used in (1, 2):
            async with session.post(f"{url}/chat/completions", json=body) as response:
                tokens = used * (await response.json())["usage"]["total_tokens"]
                told = response.headers
            assert told["x-ratelimit-limit-requests"] == "60"
            assert 60 - used <= int(told["x-ratelimit-remaining-requests"]) <= 60
            assert 6000 - tokens <= int(told["x-ratelimit-remaining-tokens"]) <= 6000


def test_a_limit_fills_up_within_a_minute() -> None:
    bucket = Bucket(60)
    bucket.take(10, now=0.0)
    assert (bucket.left(0.0), bucket.full_in_s(0.0)) == (50, 10.0)
    assert (bucket.left(4.0), bucket.full_in_s(4.0)) == (54, 6.0)
    bucket.take(1, now=5.0)
    assert (bucket.left(5.0), bucket.left(11.0)) == (54, 60)
    bucket.take(100, now=20.0)
    assert (bucket.left(20.0), bucket.full_in_s(20.0)) == (0, 60.0)


@pytest.mark.parametrize("seconds", [0.0, 0.012, 8.64, 59.999, 60.0, 360.0, 90.5])
def test_durations_are_written_as_openai_does_and_as_we_read_them(seconds: float) -> None:
    assert duration_s(duration(seconds)) == pytest.approx(seconds)


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


THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "simulated-reasoning-1"}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": []}, "input"),
        ({"stop": ["x"]}, "stop"),
        ({"max_output_tokens": 15}, "max_output_tokens"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, "input"),
        ({"input": [THOUGHT, {"role": "user", "content": "x"}]}, "input"),
        ({"input": [{**THOUGHT, "encrypted_content": "other"}]}, "input[0]"),
    ],
)
async def test_the_responses_api_refuses_what_openai_refuses(more: dict[str, Any], param: str) -> None:
    async with (
        serving_openai(OpenAISimulator()) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/responses", json={"model": "m", "input": "hello", **more}) as response,
    ):
        told = await response.json()
    assert (response.status, told["error"]["param"]) == (400, param)


async def test_events_of_a_response_are_numbered_and_end_with_the_whole() -> None:
    simulator = OpenAISimulator(reasoning_tokens=2, thoughts="so")
    body = {"model": "m", "input": "hello", "stream": True, "reasoning": {"summary": "auto"}}
    async with (
        serving_openai(simulator) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/responses", json=body) as response,
    ):
        lines = (await response.text()).splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [line.removeprefix("event: ") for line in lines if line.startswith("event: ")] == [
        event["type"] for event in events
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert events[-1]["response"]["output"] == done
    assert [item["type"] for item in done] == ["reasoning", "message"]
