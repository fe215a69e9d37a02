"""OpenAI's client, the edge, the router, the cloud proxy, a simulated OpenAI: what one asks the other is asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI

from spillway.store.embedded import embedded_valkey
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from tests.integration.cloud_proxy.rig import running
from tests.integration.router.http.rig import MESSAGES, running_edge
from tests.integration.router.mesh import CAPABILITIES

MODEL = "openai/big"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@asynccontextmanager
async def through(simulator: OpenAISimulator) -> AsyncIterator[AsyncOpenAI]:
    """A client of an edge whose `openai/big` is `simulator`, behind a cloud proxy."""
    able = {"json_schema", "json_object", "tools", "images", "logprobs", "reasoning_effort", "text_input"}
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(embedded_valkey())
        rig = await stack.enter_async_context(
            running(simulator, valkey, models=[{"name": "big", "context_window": 128_000, "capabilities": able}])
        )
        _, client = await stack.enter_async_context(
            running_edge(
                cloud_address=rig.app.server.address, capabilities=[*CAPABILITIES, *(able - set(CAPABILITIES))]
            )
        )
        yield client


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_edge_tells_what_the_provider_told(stream: bool) -> None:
    asked: dict[str, Any] = {"messages": MESSAGES, "n": 2, "logprobs": True, "top_logprobs": 2, "seed": 7}
    simulator = OpenAISimulator(cached_tokens=2, reasoning_tokens=1)
    async with (
        through(simulator) as client,
        serving_openai(simulator) as url,
        AsyncOpenAI(api_key="sk-x", base_url=url, max_retries=0) as direct,
    ):
        theirs = await direct.chat.completions.create(model="big", **asked)
        if stream:
            texts, tokens, finishes, usage = ["", ""], 0, ["", ""], None
            async with await client.chat.completions.create(
                model=MODEL, stream=True, stream_options={"include_usage": True}, **asked
            ) as chunks:
                async for chunk in chunks:
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        texts[choice.index] += choice.delta.content or ""
                        finishes[choice.index] += choice.finish_reason or ""
                        tokens += len(choice.logprobs.content or ()) if choice.logprobs else 0
            assert finishes == ["stop", "stop"]
            assert tokens == sum(
                len((choice.logprobs.content if choice.logprobs else None) or ()) for choice in theirs.choices
            )
        else:
            ours = await client.chat.completions.create(model=MODEL, **asked)
            texts, usage = [choice.message.content or "" for choice in ours.choices], ours.usage
            assert ours.choices[0].logprobs == theirs.choices[0].logprobs
        sent = simulator.seen[-1].body
    assert texts == [choice.message.content for choice in theirs.choices]
    assert usage is not None
    assert theirs.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        theirs.usage.prompt_tokens,
        theirs.usage.completion_tokens,
    )
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 2
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 1
    assert {name: sent[name] for name in asked} == asked


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_tool_is_called_and_its_result_goes_back(stream: bool) -> None:
    simulator = OpenAISimulator()
    async with through(simulator) as client:
        asked: dict[str, Any] = {"model": MODEL, "tools": [TOOL]}
        if stream:
            async with client.chat.completions.stream(messages=MESSAGES, tool_choice="required", **asked) as events:
                async for _ in events:
                    pass
                answer: Any = await events.get_final_completion()
        else:
            answer = await client.chat.completions.create(messages=MESSAGES, tool_choice="required", **asked)
        message = answer.choices[0].message
        [call] = message.tool_calls
        assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "look")
        assert set(json.loads(call.function.arguments)) == {"city"}
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
        back = message.model_dump(exclude={"parsed"})
        for called in back["tool_calls"]:
            called["function"].pop("parsed_arguments", None)
        final = await client.chat.completions.create(messages=[*MESSAGES, back, result], **asked)
        sent = simulator.seen[-1].body["messages"]
    assert final.choices[0].message.content
    assert sent[1]["tool_calls"][0]["id"] == call.id
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == call.function.arguments
    assert sent[2] == result


async def test_a_parameter_that_only_the_provider_knows_reaches_it() -> None:
    simulator = OpenAISimulator()
    async with through(simulator) as client:
        await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[TOOL], parallel_tool_calls=False, reasoning_effort="low", user="me"
        )
    body = simulator.seen[-1].body
    assert (body["parallel_tool_calls"], body["reasoning_effort"]) == (False, "low")
    assert "user" not in body
