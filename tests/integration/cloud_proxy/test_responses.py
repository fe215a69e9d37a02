"""Generations by the Responses API, over gRPC and real HTTP."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from spillway import errors, v1
from spillway.errors import ConstraintUnsupported, RequestInvalid, SpillwayError
from spillway.testing import openai_faults as faults
from spillway.testing.openai_faults import (
    Cut,
    ErrorInStream,
    Failed,
    Faults,
    Filtered,
    HttpFault,
    Malformed,
    MissingFinish,
    Refusal,
    Reset,
    Stall,
    Status,
)
from spillway.testing.openai_simulator import OpenAISimulator
from tests.integration.cloud_proxy.rig import MODEL, SCHEMA, Rig, running, spec

TOOL = v1.Tool(name="look", parameters_json_schema=json.dumps(SCHEMA))
THINKS = {"name": "gpt-4o-mini", "capabilities": ["tools", "json_schema", "json_object", "reasoning_effort"]}


def proxied(simulator: OpenAISimulator, store: str, **provider: Any) -> AbstractAsyncContextManager[Rig]:
    return running(simulator, store, kind="openai-responses", **provider)


def thinking(**more: Any) -> OpenAISimulator:
    return OpenAISimulator(reasoning_tokens=4, thoughts="First this.\n\nThen that.", **more)


async def test_an_answer_is_streamed_with_reasoning_usage_cost_and_its_model(valkey: str) -> None:
    simulator = thinking(cached_tokens=3)
    async with proxied(simulator, valkey, models=[THINKS], reasoning_summary="auto") as rig:
        events = [event async for event in rig.events(spec(reasoning_effort=v1.REASONING_EFFORT_HIGH))]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert set(kinds[1:-2]) == {"delta"}
    assert kinds[-2:] == ["finished", "usage"]
    assert "".join(event.delta.text for event in events) == "Simulated cloud answer to: hello there"
    assert "".join(event.delta.reasoning for event in events) == "First this.\n\nThen that."
    [state] = [event.delta.provider_state for event in events if event.delta.HasField("provider_state")]
    assert state.wire == "openai-responses"
    started, usage = events[0].started, events[-1].usage
    assert (started.target, started.model) == (MODEL, "gpt-4o-mini-simulated")
    counts = (usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens, usage.reasoning_tokens)
    assert counts == (5, 3, 10, 4)
    assert usage.cache_write_prompt_tokens == 0
    assert usage.cost_nano_usd == 2 * 150 + 3 * 75 + 10 * 600
    [seen] = simulator.seen
    assert seen.path == "/v1/responses"
    assert seen.body["store"] is False
    assert seen.body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert seen.body["include"] == ["reasoning.encrypted_content"]


async def test_a_unary_answer_is_the_stream_folded(valkey: str) -> None:
    async with proxied(OpenAISimulator(), valkey) as rig:
        response = await rig.generate(spec())
        streamed = await rig.stream(spec())
    assert response.choices == streamed.choices
    assert response.choices[0].finish.reason == v1.FINISH_REASON_STOP
    assert not response.choices[0].content.HasField("provider_state")
    assert response.usage.completion_tokens == 6


async def test_a_conversation_goes_on_with_its_reasoning_its_call_and_the_result(valkey: str) -> None:
    simulator = thinking()
    asked = [v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="what is there?")])]
    async with proxied(simulator, valkey, models=[THINKS]) as rig:
        called = await rig.stream(
            spec(chat=v1.Chat(messages=asked), tools=[TOOL], tool_choice=v1.ToolChoice(name="look"))
        )
        content = called.choices[0].content
        [made] = content.tool_calls
        assert called.choices[0].finish.reason == v1.FINISH_REASON_TOOL_CALLS
        assert json.loads(made.arguments) == {"label": "billing", "score": 1}
        call = v1.ToolCall(id=made.id, name=made.name, arguments=made.arguments)
        result = v1.ToolResult(tool_call_id=made.id, content="a cat")
        went_on = [
            *asked,
            v1.Message(
                role=v1.ROLE_ASSISTANT,
                parts=[v1.Part(provider_state=content.provider_state), v1.Part(tool_call=call)],
            ),
            v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=result)]),
        ]
        answered = await rig.stream(spec(chat=v1.Chat(messages=went_on), tools=[TOOL]))
        lost = v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=v1.ToolResult(tool_call_id="other"))])
        with pytest.raises(RequestInvalid):  # the simulator looks at it as OpenAI does
            await rig.stream(spec(chat=v1.Chat(messages=[*went_on[:2], lost])))
    assert answered.choices[0].content.text.startswith("Simulated")
    kinds = [item.get("type", item.get("role")) for item in simulator.seen[1].body["input"]]
    assert kinds == ["user", "reasoning", "function_call", "function_call_output"]


async def test_json_and_logprobs_pass_through(valkey: str) -> None:
    async with proxied(OpenAISimulator(), valkey) as rig:
        held = await rig.stream(spec(constraint=v1.OutputConstraint(json_schema=json.dumps(SCHEMA))))
        free = await rig.stream(spec(constraint=v1.OutputConstraint(json_object=True)))
        told = await rig.stream(spec(logprobs=v1.Logprobs(top=2)))
    assert json.loads(held.choices[0].content.text) == {"label": "billing", "score": 1}
    assert json.loads(free.choices[0].content.text).keys() == {"simulated"}
    content = told.choices[0].content
    assert "".join(one.token for one in content.logprobs) == content.text
    assert len(content.logprobs[0].top) == 2


async def test_length_refusal_and_filter_are_finish_reasons(valkey: str) -> None:
    simulator = OpenAISimulator(answer=lambda _: "word " * 40, faults=Faults(None, Refusal(), Filtered(after=2)))
    async with proxied(simulator, valkey) as rig:
        cut = (await rig.stream(spec(sampling=v1.Sampling(max_tokens=16)))).choices[0]
        refused = (await rig.stream(spec())).choices[0]
        filtered = (await rig.stream(spec())).choices[0]
    assert (cut.content.text.count("word"), cut.finish.reason) == (16, v1.FINISH_REASON_LENGTH)
    assert refused.content.text.startswith("I'm sorry")
    assert refused.finish.reason == v1.FINISH_REASON_CONTENT_FILTER
    assert (filtered.content.text, filtered.finish.reason) == ("word word", v1.FINISH_REASON_CONTENT_FILTER)


async def test_the_provider_keeps_an_answer_only_if_it_is_told_to(valkey: str) -> None:
    simulator, extra = thinking(), Struct()
    extra.update({"store": True})
    async with proxied(simulator, valkey, models=[THINKS], prompt_cache=True) as rig:
        await rig.stream(spec(extra=extra, prompt_cache=v1.PromptCache(key="k", ttl_s=7200)))
    body = simulator.seen[0].body
    assert (body["store"], body["prompt_cache_key"], body["prompt_cache_retention"]) == (True, "k", "24h")


async def test_what_the_api_has_not_is_named_before_anything_is_sent(valkey: str) -> None:
    simulator = OpenAISimulator()
    async with proxied(simulator, valkey) as rig:
        with pytest.raises(ConstraintUnsupported) as caught:
            await rig.stream(spec(stop=v1.Stop(strings=["END"])))
        assert await rig.used() == (0, 0)
    assert caught.value.fields[0].field == "spec.stop.strings"
    assert simulator.seen == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.context_length_exceeded(), errors.ContextLengthExceeded),
        (faults.out_of_credit(), errors.ProviderOutOfCredit),
        (faults.rate_limited(), errors.ProviderRateLimited),
        (Status(401, "invalid_api_key"), errors.ProviderAuthFailed),
        (Status(404, "model_not_found"), errors.TargetModelMissing),
        (Status(529), errors.ProviderError),
        (Reset(), errors.TargetDown),
        (Cut(after=2), errors.TargetDown),
        (Malformed(after=2), errors.ProviderError),
        (MissingFinish(after=2), errors.ProviderError),
        (ErrorInStream(after=2), errors.ProviderError),
        (ErrorInStream(after=0, code="rate_limit_exceeded", type="tokens"), errors.ProviderRateLimited),
        (Failed(after=2), errors.ProviderError),
        (Failed(code="rate_limit_exceeded"), errors.ProviderRateLimited),
        (Failed(code="invalid_image"), errors.RequestInvalid),
        (Filtered(after=0), errors.ContentFiltered),
    ],
)
async def test_a_failure_has_its_reason_and_is_accounted(
    valkey: str, fault: HttpFault, kind: type[SpillwayError]
) -> None:
    async with proxied(OpenAISimulator(faults=Faults(fault)), valkey) as rig:
        await rig.fail(kind)


async def test_a_cancelled_stream_reaches_the_provider_at_once(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Stall(after=3)))
    async with proxied(simulator, valkey) as rig:
        await rig.leave_early()
