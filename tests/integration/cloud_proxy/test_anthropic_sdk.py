"""Anthropic's own client and our adapter see the same, before the simulator and before what was really recorded.

The client sends the newer API version, our adapter the older one: the answers are of one format.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message

from services.cloud_proxy.wires.anthropic import Anthropic
from services.cloud_proxy.wires.anthropic_answer import FINISHES
from spillway import v1
from spillway.testing import openai_faults as faults
from spillway.testing.anthropic_simulator import AnthropicSimulator
from spillway.testing.http_simulator import serving
from spillway.testing.openai_faults import ErrorInStream, Faults, HttpFault, Status
from tests.integration.cloud_proxy.anthropic_rig import NEW, OLD, asking_claude, claude
from tests.integration.cloud_proxy.cassettes import answered, playing, rows

MESSAGES: Any = [{"role": "user", "content": "hello there"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [{"name": "look", "input_schema": SCHEMA}]
LOOK = v1.Tool(name="look", parameters_json_schema=json.dumps(SCHEMA))
KEPT: Any = {"type": "text", "text": "hello there", "cache_control": {"type": "ephemeral"}}
LOW: Any = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}


@asynccontextmanager
async def sdk(url: str) -> AsyncIterator[AsyncAnthropic]:
    """The official client, which adds `/v1` by itself."""
    async with AsyncAnthropic(api_key="sk-x", base_url=url.removesuffix("/v1"), max_retries=0) as client:
        yield client


async def streamed(client: AsyncAnthropic, **asked: Any) -> Message:
    """The message that the client makes of a stream."""
    async with client.messages.stream(**asked) as stream:
        return await stream.get_final_message()


def require_same(theirs: Message, content: v1.Delta, finish: v1.ChoiceFinish, usage: v1.Usage) -> None:
    """Fail unless both views of one answer are equal in all that the contract can say."""
    assert content.text == "".join(block.text for block in theirs.content if block.type == "text")
    assert content.reasoning == "".join(block.thinking for block in theirs.content if block.type == "thinking")
    called = [(block.id, block.name, block.input) for block in theirs.content if block.type == "tool_use"]
    assert [(call.id, call.name, json.loads(call.arguments)) for call in content.tool_calls] == called
    assert finish.reason == FINISHES[str(theirs.stop_reason)]
    assert finish.stop_string == (theirs.stop_sequence or "")
    told = theirs.usage
    read, written = told.cache_read_input_tokens or 0, told.cache_creation_input_tokens or 0
    assert usage.prompt_tokens == told.input_tokens + read + written
    assert (usage.cached_prompt_tokens, usage.cache_write_prompt_tokens) == (read, written)
    assert usage.completion_tokens == told.output_tokens
    thought = told.output_tokens_details.thinking_tokens if told.output_tokens_details else 0
    assert usage.reasoning_tokens == thought


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("asked", "ours"),
    [
        ({}, claude()),
        ({"stop_sequences": ["answer"]}, claude(stop=v1.Stop(strings=["answer"]))),
        ({"max_tokens": 2}, claude(sampling=v1.Sampling(max_tokens=2))),
        ({"model": NEW, "max_tokens": 4096, **LOW}, claude(model=NEW, reasoning_effort=v1.REASONING_EFFORT_LOW)),
        (
            {"tools": TOOLS, "tool_choice": {"type": "any"}},
            claude(tools=[LOOK], tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED)),
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            claude(constraint=v1.OutputConstraint(json_schema=json.dumps(SCHEMA))),
        ),
        (
            {"messages": [{"role": "user", "content": [KEPT]}]},
            claude(prompt_cache=v1.PromptCache()),
        ),
    ],
    ids=["text", "stop", "length", "thinking", "tool", "schema", "cache"],
)
async def test_the_sdk_and_our_adapter_read_the_same_answer(
    valkey: str, asked: dict[str, Any], ours: v1.GenerationSpec, whole: bool
) -> None:
    told = {"model": OLD, "max_tokens": 1024, "messages": MESSAGES, **asked}
    simulator = AnthropicSimulator()
    async with serving(simulator) as url, asking_claude(simulator, valkey, url=url) as rig, sdk(url) as client:
        theirs = await (client.messages.create(**told) if whole else streamed(client, **told))
        simulator.kept.clear()
        answer = await rig.stream(ours)
    [choice] = answer.choices
    require_same(theirs, choice.content, choice.finish, answer.usage)


@pytest.mark.conformance
@pytest.mark.parametrize("row", rows(answered("api.anthropic.com")))
async def test_the_sdk_and_our_adapter_read_the_same_of_what_was_recorded(row: dict[str, Any]) -> None:
    asked = {"model": "m", "max_tokens": 16, "messages": MESSAGES}
    async with playing(row, Anthropic, "anthropic") as player:
        played = await player.play()
        async with sdk(f"http://127.0.0.1:{player.cassette.port}/v1") as client:
            whole = row["response"]["body"].startswith("{")
            theirs = await (client.messages.create(**asked) if whole else streamed(client, **asked))
    [content], exchange = played.choices, played.exchange
    assert exchange.usage is not None
    require_same(theirs, content, exchange.finishes[0], exchange.usage)
    assert theirs.model == exchange.model


@pytest.mark.parametrize(
    ("fault", "kind", "type"),
    [
        (faults.rate_limited(), anthropic.RateLimitError, "rate_limit_error"),
        (faults.out_of_credit(), anthropic.APIStatusError, "billing_error"),
        (faults.context_length_exceeded(), anthropic.BadRequestError, "invalid_request_error"),
        (Status(404), anthropic.NotFoundError, "not_found_error"),
        (faults.overloaded(), anthropic.InternalServerError, "overloaded_error"),
        (ErrorInStream(after=1, type="overloaded_error"), anthropic.APIStatusError, "overloaded_error"),
    ],
)
async def test_the_sdk_understands_the_simulators_errors(
    fault: HttpFault, kind: type[anthropic.APIStatusError], type: str
) -> None:
    async with serving(AnthropicSimulator(faults=Faults(fault))) as url, sdk(url) as client:
        with pytest.raises(kind) as caught:
            await streamed(client, model=OLD, max_tokens=16, messages=MESSAGES)
    assert caught.value.type == type


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"messages": []}, "messages: at least one message is required"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "prefill"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": []}]}, "non-empty content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": ""}]}]},
            "unexpected `tool_use_id`",
        ),
        ({"extra_body": {"logit_bias": {}}}, "logit_bias: Extra inputs"),
        ({"extra_body": {"temperature": 0.5}}, "temperature: Extra inputs"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "max_tokens"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, "additionalProperties"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
    ],
)
async def test_a_malformed_request_is_refused_as_anthropic_does(asked: dict[str, Any], said: str) -> None:
    async with serving(AnthropicSimulator()) as url, sdk(url) as client:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await client.messages.create(**{"model": OLD, "max_tokens": 16, "messages": MESSAGES, **asked})
    assert said in (caught.value.api_message or "")


async def test_the_sdk_finds_the_simulators_models_and_is_refused_with_a_wrong_key() -> None:
    simulator = AnthropicSimulator(key="sk-x", models=("claude-a", "claude-b"))
    async with serving(simulator) as url:
        async with sdk(url) as client:
            assert [model.id async for model in client.models.list()] == ["claude-a", "claude-b"]
        simulator.key = "sk-other"
        async with sdk(url) as client:
            with pytest.raises(anthropic.AuthenticationError):
                await streamed(client, model=OLD, max_tokens=16, messages=MESSAGES)
