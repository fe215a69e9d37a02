"""Recorded exchanges with the Responses API, replayed: equal to a plain reading however the bytes are cut."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from services.cloud_proxy.wires.openai_responses import OpenAIResponses
from spillway import v1
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from tests.integration.cloud_proxy.cassettes import DATA, RECORDED, Row, answered, playing, refused, rows
from tests.integration.cloud_proxy.rig import SCHEMA, spec

pytestmark = pytest.mark.conformance

KIND = "openai-responses"


def expected(row: Row) -> dict[str, Any]:
    """The whole response, read from the recording in the plainest way."""
    body: str = row["response"]["body"]
    if body.lstrip().startswith("{"):
        found: dict[str, Any] = json.loads(body)
        return found
    [last] = [line for line in body.splitlines() if line.startswith('data: {"type":"response.completed"')]
    whole: dict[str, Any] = json.loads(last.removeprefix("data: "))["response"]
    return whole


@pytest.mark.parametrize("row", rows(answered("/responses")))
async def test_text_tools_finish_and_usage_are_those_of_the_recording_however_it_is_cut(row: Row) -> None:
    told = expected(row)
    async with playing(row, OpenAIResponses, KIND) as player:
        played = await player.require_same_however_cut()
    (whole,), exchange = played.choices, played.exchange
    output, usage = told["output"], told["usage"]
    said = [part["text"] for item in output if item["type"] == "message" for part in item["content"]]
    calls = [(item["call_id"], item["name"], item["arguments"]) for item in output if item["type"] == "function_call"]
    assert whole.text == "".join(said)
    assert [(made.id, made.name, made.arguments) for made in whole.tool_calls] == calls
    assert [finish.reason for finish in exchange.finishes] == [v1.FINISH_REASON_STOP]
    assert exchange.model == told["model"]
    counted = exchange.usage
    assert counted is not None
    assert (counted.prompt_tokens, counted.completion_tokens) == (usage["input_tokens"], usage["output_tokens"])
    assert counted.cached_prompt_tokens == usage["input_tokens_details"]["cached_tokens"]
    assert counted.reasoning_tokens == usage["output_tokens_details"]["reasoning_tokens"]
    written = usage["input_tokens_details"].get("cache_write_tokens")
    assert (counted.cache_write_prompt_tokens if counted.HasField("cache_write_prompt_tokens") else None) == written


@pytest.mark.parametrize("row", rows(answered("/responses")))
async def test_encrypted_reasoning_of_a_recording_goes_back_as_it_came(row: Row) -> None:
    reasoning = [item for item in expected(row)["output"] if item["type"] == "reasoning"]
    async with playing(row, OpenAIResponses, KIND) as player:
        (whole,) = (await player.play()).choices
        said = [v1.Part(text=whole.text)]
        if whole.HasField("provider_state"):
            said.insert(0, v1.Part(provider_state=whole.provider_state))
        hello = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="hello")])
        messages = [hello, v1.Message(role=v1.ROLE_ASSISTANT, parts=said), hello]
        await player.play(asked=spec(chat=v1.Chat(messages=messages)))
    sent = json.loads(player.cassette.asked[-1].partition(b"\r\n\r\n")[2])["input"]
    assert [item for item in sent if item.get("type") == "reasoning"] == reasoning
    assert [item.get("content") for item in sent if item.get("role") == "assistant"] == [whole.text]


ASKED = {
    "reasoning": {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]},
    "tools": {"tools": [{"type": "function", "name": "look", "parameters": SCHEMA}], "tool_choice": "required"},
    "logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_what_nobody_recorded_is_the_same_too_however_it_is_cut(asked: dict[str, Any]) -> None:
    simulator = OpenAISimulator(reasoning_tokens=4, thoughts="First thís.\n\nThen that.")
    body = {"model": "m", "input": "hello there", "stream": True, **asked}
    async with serving_openai(simulator) as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/responses", json=body) as response:
            told = {"headers": {"content-type": "text/event-stream"}, "body": await response.text()}
        async with session.post(f"{url}/responses", json={**body, "stream": False}) as response:
            whole = {"headers": {"content-type": "application/json"}, "body": await response.text()}
    async with playing({"status": 200, "response": told}, OpenAIResponses, KIND) as player:
        streamed = await player.require_same_however_cut()
    async with playing({"status": 200, "response": whole}, OpenAIResponses, KIND) as player:
        once = await player.play()
    [content], [other] = streamed.choices, once.choices
    content.ClearField("provider_state")  # the two answers have ids of their own
    other.ClearField("provider_state")
    assert content == other
    assert streamed.exchange.finishes == once.exchange.finishes


@RECORDED
def test_every_recording_of_the_api_is_played() -> None:
    """Some are named after chat completions."""
    urls = [json.loads(line)["request"]["url"] for line in DATA.read_text().splitlines()]
    played = rows(answered("/responses")) + rows(refused("/responses"))
    assert len(played) == sum(url.endswith("/responses") for url in urls) == 4
    assert rows(refused("/responses")) == []
