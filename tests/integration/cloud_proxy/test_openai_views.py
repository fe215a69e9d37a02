"""One server, two readers: the openai package and our adapters see the same, of both APIs, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from openai import AsyncOpenAI

from services.cloud_proxy.wires.openai import OpenAI
from services.cloud_proxy.wires.openai_responses import OpenAIResponses
from spillway import v1
from spillway.testing.openai_faults import Faults, Filtered, HttpFault, Refusal
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from tests.integration.cloud_proxy.cassettes import Row, answered, playing, rows
from tests.integration.cloud_proxy.rig import running, spec
from tests.integration.cloud_proxy.sdk_view import View, chat, ours, responses

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "look", "parameters": SCHEMA}
WIRES = {"openai": (chat, OpenAI), "openai-responses": (responses, OpenAIResponses)}

ASKED: Mapping[str, tuple[v1.GenerationSpec, dict[str, Any], dict[str, Any]]] = {
    "words": (spec(), {}, {}),
    "tools": (
        spec(
            tools=[v1.Tool(name="look", parameters_json_schema=json.dumps(SCHEMA))],
            tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED),
        ),
        {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"},
        {"tools": [{"type": "function", "strict": True, **FUNCTION}], "tool_choice": "required"},
    ),
    "structured": (
        spec(constraint=v1.OutputConstraint(json_schema=json.dumps(SCHEMA))),
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
        {"text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}}},
    ),
    "length": (spec(sampling=v1.Sampling(max_tokens=16)), {"max_completion_tokens": 16}, {"max_output_tokens": 16}),
}
"""What is asked of us, of chat completions and of responses."""


@pytest.mark.parametrize("kind", WIRES)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("asked", ASKED)
async def test_the_package_and_our_adapter_read_the_same(valkey: str, kind: str, stream: bool, asked: str) -> None:
    ours_asked, *theirs_asked = ASKED[asked]
    words = "word " * 30 if asked == "length" else "some words"
    simulator = OpenAISimulator(answer=lambda _: words, cached_tokens=2, reasoning_tokens=1)
    theirs, mine = await _both(simulator, valkey, kind, stream, ours_asked, theirs_asked[kind == "openai-responses"])
    assert theirs == mine


@pytest.mark.parametrize("kind", WIRES)
@pytest.mark.parametrize("fault", [Refusal(), Filtered(after=2)], ids=["refusal", "filter"])
async def test_they_read_the_same_of_an_answer_that_was_refused(valkey: str, kind: str, fault: HttpFault) -> None:
    simulator = OpenAISimulator(faults=Faults(always=fault))
    theirs, mine = await _both(simulator, valkey, kind, True, spec(), {})
    assert theirs == mine
    assert mine.finish == "content_filter"


async def _both(
    simulator: OpenAISimulator, store: str, kind: str, stream: bool, asked: v1.GenerationSpec, theirs: dict[str, Any]
) -> tuple[View, View]:
    if kind == "openai" and stream:
        theirs = {"stream_options": {"include_usage": True}, **theirs}
    async with (
        serving_openai(simulator) as url,
        running(simulator, store, url=url, kind=kind) as rig,
        AsyncOpenAI(api_key="sk-x", base_url=url, max_retries=0) as client,
    ):
        view = await WIRES[kind][0](client, stream=stream, model="gpt-4o-mini", **theirs)
        told = await rig.stream(asked)
    [choice] = told.choices
    return view, ours(choice.content, choice.finish, told.usage, told.started.model)


@pytest.mark.conformance
@pytest.mark.parametrize("row", rows(answered("/chat/completions", "/responses")))
async def test_they_read_the_same_of_every_recording(row: Row) -> None:
    kind = "openai-responses" if row["request"]["url"].endswith("/responses") else "openai"
    view, wire = WIRES[kind]
    stream = "text/event-stream" in json.dumps(row["response"]["headers"])
    async with (
        playing(row, wire, kind) as player,
        AsyncOpenAI(api_key="sk-x", base_url=f"http://127.0.0.1:{player.cassette.port}/v1", max_retries=0) as client,
    ):
        played = await player.play()
        theirs = await view(client, stream=stream, model="m")
    [content], [finish] = played.choices, played.exchange.finishes
    assert ours(content, finish, played.exchange.usage, played.exchange.model) == theirs
