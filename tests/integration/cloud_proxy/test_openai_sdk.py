"""OpenAI's own client against the simulator sees what our adapter sees: the simulator speaks the true wire format."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from spillway import v1
from spillway.testing import openai_faults as faults
from spillway.testing.openai_faults import Faults, HttpFault, Status
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from tests.integration.cloud_proxy.rig import running, spec

MESSAGES: Any = [{"role": "user", "content": "hello there"}]
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def test_the_sdk_and_our_adapter_read_the_same_stream(valkey: str) -> None:
    simulator = OpenAISimulator(cached_tokens=2, reasoning_tokens=1)
    async with (
        serving_openai(simulator) as url,
        running(simulator, valkey, url=url) as rig,
        AsyncOpenAI(api_key="sk-x", base_url=url, max_retries=0) as client,
    ):
        ours = await rig.stream(spec(sampling=v1.Sampling(n=2)))
        texts, finishes, usage = ["", ""], ["", ""], None
        stream = await client.chat.completions.create(
            model="gpt-4o-mini", messages=MESSAGES, n=2, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            assert chunk.object == "chat.completion.chunk"
            assert chunk.system_fingerprint == "fp_simulated"
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                finishes[choice.index] += choice.finish_reason or ""
        unary = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, n=2)
    assert texts == [choice.content.text for choice in ours.choices]
    assert texts == [choice.message.content for choice in unary.choices]
    assert finishes == ["stop", "stop"]
    assert usage is not None
    assert usage == unary.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (ours.usage.prompt_tokens, ours.usage.completion_tokens)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == ours.usage.cached_prompt_tokens == 2
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == ours.usage.reasoning_tokens == 1


async def test_the_sdk_and_our_adapter_read_the_same_tool_call_and_logprobs(valkey: str) -> None:
    simulator = OpenAISimulator()
    asked: Any = {
        "tools": [{"type": "function", "function": {"name": "look", "parameters": TOOL}}],
        "tool_choice": "required",
    }
    async with (
        serving_openai(simulator) as url,
        running(simulator, valkey, url=url) as rig,
        AsyncOpenAI(api_key="sk-x", base_url=url, max_retries=0) as client,
    ):
        theirs = await client.chat.completions.create(model="m", messages=MESSAGES, **asked)
        ours = await rig.stream(
            spec(
                tools=[v1.Tool(name="look", parameters_json_schema=json.dumps(TOOL))],
                tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED),
            )
        )
        told = await client.chat.completions.create(model="m", messages=MESSAGES, logprobs=True, top_logprobs=2)
        mine = await rig.stream(spec(logprobs=v1.Logprobs(top=2)))
        models = [model.id async for model in client.models.list()]
    calls = theirs.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    [made] = ours.choices[0].content.tool_calls
    assert (calls[0].id, calls[0].function.name, calls[0].function.arguments) == (made.id, made.name, made.arguments)
    assert told.choices[0].logprobs is not None
    assert [one.token for one in told.choices[0].logprobs.content or ()] == [
        one.token for one in mine.choices[0].content.logprobs
    ]
    assert models == ["simulated"]


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (faults.rate_limited(), openai.RateLimitError, "rate_limit_exceeded"),
        (faults.out_of_credit(), openai.RateLimitError, "insufficient_quota"),
        (faults.context_length_exceeded(), openai.BadRequestError, "context_length_exceeded"),
        (Status(404, "model_not_found"), openai.NotFoundError, "model_not_found"),
        (faults.overloaded(), openai.InternalServerError, None),
    ],
)
async def test_the_sdk_understands_the_simulators_errors(
    fault: HttpFault, kind: type[openai.APIStatusError], code: str | None
) -> None:
    async with (
        serving_openai(OpenAISimulator(faults=Faults(fault))) as url,
        AsyncOpenAI(api_key="sk-x", base_url=url, max_retries=0) as client,
    ):
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model="m", messages=MESSAGES)
    assert caught.value.code == code


async def test_a_wrong_key_is_refused_as_openai_does() -> None:
    async with (
        serving_openai(OpenAISimulator(key="sk-right")) as url,
        AsyncOpenAI(api_key="sk-wrong-0000", base_url=url, max_retries=0) as client,
    ):
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
    assert caught.value.code == "invalid_api_key"
    assert "sk-wrong" not in caught.value.message


async def test_an_unknown_parameter_is_refused_as_openai_does() -> None:
    async with (
        serving_openai(OpenAISimulator()) as url,
        AsyncOpenAI(api_key="sk-x", base_url=url, max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="m", messages=MESSAGES, extra_body={"top_k": 5})
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "top_k")
