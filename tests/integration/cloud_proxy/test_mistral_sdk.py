"""Mistral's own client sees what our adapter sees, before the simulator and before the recordings."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from mistralai.client import Mistral as Client
from mistralai.client.errors import HTTPValidationError, SDKError
from mistralai.client.models import TextChunk, ThinkChunk

from services.cloud_proxy.wires.mistral import Mistral
from spillway import v1
from spillway.testing import openai_faults as faults
from spillway.testing.mistral_simulator import MistralSimulator
from spillway.testing.openai_faults import Faults
from spillway.testing.openai_simulator import serving_openai
from tests.integration.cloud_proxy.cassettes import Row, answered, playing, rows
from tests.integration.cloud_proxy.rig import spec
from tests.integration.cloud_proxy.test_mistral import TOOL, asked, mistral
from tests.integration.cloud_proxy.test_mistral_recordings import HOST

MESSAGES: Any = [{"role": "user", "content": "hello there"}]
FUNCTION: Any = {
    "type": "function",
    "function": {"name": TOOL.name, "parameters": json.loads(TOOL.parameters_json_schema)},
}
FINISHES = {
    v1.FINISH_REASON_STOP: "stop",
    v1.FINISH_REASON_LENGTH: "length",
    v1.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


@dataclass
class Read:
    """One choice as the client reads it."""

    text: str = ""
    reasoning: str = ""
    finish: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    usage: tuple[int, int] = (0, 0)

    def add(self, said: Any, finish: object, usage: Any) -> None:
        """Take a delta or a whole message."""
        for chunk in [TextChunk(text=said.content)] if isinstance(said.content, str) else said.content or ():
            if isinstance(chunk, ThinkChunk):
                self.reasoning += "".join(part.text for part in chunk.thinking if isinstance(part, TextChunk))
            else:
                self.text += chunk.text
        for call in said.tool_calls or ():
            self.calls.append((call.id, call.function.name, call.function.arguments))
        self.finish = str(finish or self.finish)
        self.usage = (usage.prompt_tokens, usage.completion_tokens) if usage else self.usage


def ours(answer: v1.GenerateResponse, at: int = 0) -> Read:
    content = answer.choices[at].content
    return Read(
        content.text,
        content.reasoning,
        FINISHES[answer.choices[at].finish.reason],
        [(call.id, call.name, call.arguments) for call in content.tool_calls],
        (answer.usage.prompt_tokens, answer.usage.completion_tokens),
    )


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    async with Client(api_key="sk-x", server_url=url.removesuffix("/v1"), retry_config=None) as made:
        yield made


async def streamed(made: Client, model: str = "mistral-small-latest", **asked: Any) -> dict[int, Read]:
    read: dict[int, Read] = {}
    async for event in await made.chat.stream_async(model=model, messages=MESSAGES, **asked):
        for choice in event.data.choices:
            read.setdefault(choice.index, Read()).add(choice.delta, choice.finish_reason, event.data.usage)
    return read


async def whole(made: Client, **asked: Any) -> Read:
    told, read = await made.chat.complete_async(model="m", messages=MESSAGES, **asked), Read()
    [choice] = told.choices
    read.add(choice.message, choice.finish_reason, told.usage)
    return read


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        ({}, {}),
        ({"max_tokens": 3}, {"sampling": v1.Sampling(max_tokens=3)}),
        (
            {"tools": [FUNCTION], "tool_choice": "any"},
            {"tools": [TOOL], "tool_choice": v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED)},
        ),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "look"}}},
            {"tools": [TOOL], "tool_choice": v1.ToolChoice(name="look")},
        ),
    ],
    ids=["plain", "cut", "tool", "named-tool"],
)
@pytest.mark.parametrize("thinking", [(), ("Let me ", "think.")], ids=["plain", "reasoning"])
async def test_the_sdk_and_our_adapter_read_the_same(
    valkey: str, thinking: tuple[str, ...], theirs: dict[str, Any], mine: dict[str, Any]
) -> None:
    simulator = MistralSimulator(thinking=thinking)
    async with serving_openai(simulator) as url, mistral(simulator, valkey, url=url) as rig, client(url) as made:
        answer = ours(await rig.stream(asked(**mine)))
        assert answer == (await streamed(made, **theirs))[0]
        assert answer == await whole(made, **theirs)
    assert answer.reasoning == "".join(thinking)
    first, *others = ({name: seen.body.get(name) for name in ("tools", "tool_choice")} for seen in simulator.seen)
    assert all(other == first for other in others)


async def test_the_sdk_and_our_adapter_read_the_same_choices(valkey: str) -> None:
    simulator = MistralSimulator()
    async with serving_openai(simulator) as url, mistral(simulator, valkey, url=url) as rig, client(url) as made:
        answer = await rig.stream(asked(sampling=v1.Sampling(n=2)))
        theirs = await streamed(made, n=2)
    assert [ours(answer, at).text for at in (0, 1)] == [theirs[at].text for at in (0, 1)]


async def test_the_sdk_understands_the_simulators_errors() -> None:
    simulator = MistralSimulator(faults=Faults(faults.rate_limited()))
    async with serving_openai(simulator) as url, client(url) as made:
        with pytest.raises(SDKError) as limited:
            await whole(made)
        with pytest.raises(HTTPValidationError) as invalid:
            await made.chat.complete_async(model="", messages=MESSAGES)
    assert (limited.value.status_code, json.loads(limited.value.body)["code"]) == (429, "1300")
    assert [wrong.loc for wrong in invalid.value.data.detail or ()] == [["body", "model"]]


@pytest.mark.conformance
@pytest.mark.parametrize("row", rows(answered(HOST)))
async def test_the_sdk_and_our_adapter_read_the_same_recording(row: Row) -> None:
    async with playing(row, Mistral, "mistral") as player:
        played = await player.play(asked=spec())
        async with client(f"http://127.0.0.1:{player.cassette.port}") as made:
            if "event-stream" in row["response"]["headers"]["content-type"]:
                [theirs] = (await streamed(made)).values()
            else:
                theirs = await whole(made)
    usage = played.exchange.usage
    assert usage is not None
    assert theirs.text == played.choices[0].text
    assert theirs.usage == (usage.prompt_tokens, usage.completion_tokens)
    assert theirs.finish == "stop"
