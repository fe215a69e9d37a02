"""Generations by Anthropic's Messages API through the cloud proxy, over gRPC and real HTTP.

The simulated Anthropic refuses what the real one does, so what it answers was asked for in the right way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import pytest

from spillway import errors, v1
from spillway.errors import ConstraintUnsupported, SpillwayError
from spillway.testing import openai_faults as faults
from spillway.testing.anthropic_simulator import AnthropicSimulator
from spillway.testing.openai_faults import Cut, ErrorInStream, Faults, HttpFault, Malformed, Page, Reset, Stall, Status
from spillway.testing.openai_wire import Called
from tests.integration.cloud_proxy.anthropic_rig import (
    NEW,
    OLD,
    PREFILLED,
    answered,
    asked_with,
    asking_claude,
    claude,
    results,
    said,
)

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["billing", "other"]}, "score": {"type": "number", "minimum": 0}},
    "required": ["label", "score"],
}
LOOK = v1.Tool(name="look", parameters_json_schema=json.dumps(SCHEMA))


def looks_once(body: Mapping[str, Any]) -> list[Called]:
    """Call two tools where nothing came back from any yet."""
    blocks = [block for message in body["messages"] for block in message["content"]]
    if any(block["type"] == "tool_result" for block in blocks):
        return []
    return [Called("look", '{"label":"billing","score":1}'), Called("look", "{}")]


async def test_an_answer_is_streamed_with_usage_cost_and_its_model(valkey: str) -> None:
    async with asking_claude(AnthropicSimulator(), valkey) as rig:
        events = [event async for event in rig.events(claude())]
        unary = await rig.generate(claude())
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], set(kinds[1:-2]), kinds[-2:]) == ("started", {"delta"}, ["finished", "usage"])
    text = "".join(event.delta.text for event in events)
    assert text == unary.choices[0].content.text == "Simulated cloud answer to: hello there"
    assert events[0].started.model == OLD
    usage = events[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 6)
    assert usage.cost_nano_usd == 5 * 1_000 + 6 * 5_000
    assert not usage.HasField("reasoning_tokens")


async def test_the_key_goes_where_anthropic_looks_for_it(valkey: str) -> None:
    simulator = AnthropicSimulator(key="sk-right")
    async with asking_claude(simulator, valkey, environ={"A": "sk-right"}, key_env="A") as rig:
        await rig.stream(claude())
    assert simulator.seen[0].headers["anthropic-version"] == "2023-06-01"
    async with asking_claude(simulator, valkey, environ={"A": "sk-wrong"}, key_env="A") as rig:
        with pytest.raises(errors.ProviderAuthFailed) as caught:
            await rig.stream(claude())
    assert "sk-wrong" not in str(caught.value)


@pytest.mark.parametrize("model", [OLD, NEW])
@pytest.mark.parametrize("effort", [v1.REASONING_EFFORT_UNSPECIFIED, v1.REASONING_EFFORT_HIGH])
@pytest.mark.parametrize("redacted", [False, True])
async def test_tools_are_called_and_their_results_taken_back_with_the_thoughts_that_led_to_them(
    valkey: str, model: str, effort: v1.ReasoningEffort.ValueType, redacted: bool
) -> None:
    simulator = AnthropicSimulator(calls=looks_once, redacted=redacted)
    asked = said(v1.ROLE_USER, "what is it?")
    how: dict[str, Any] = {"model": model, "tools": [LOOK], "reasoning_effort": effort}
    async with asking_claude(simulator, valkey) as rig:
        first = (await rig.stream(asked_with(asked, **how))).choices[0]
        second = (
            await rig.stream(asked_with(asked, answered(first.content), results(first.content, "it rains"), **how))
        ).choices[0]
    assert first.finish.reason == v1.FINISH_REASON_TOOL_CALLS
    assert [json.loads(call.arguments) for call in first.content.tool_calls] == [{"label": "billing", "score": 1}, {}]
    assert second.finish.reason == v1.FINISH_REASON_STOP
    assert second.content.text == "Simulated cloud answer to: what is it?"
    thinks = effort == v1.REASONING_EFFORT_HIGH
    assert first.content.HasField("provider_state") is thinks
    assert first.content.reasoning == ("Simulated thought." if thinks and not redacted else "")
    sent = simulator.seen[-1].body["messages"]
    assert [block["type"] for block in sent[2]["content"]] == ["tool_result", "tool_result"]
    assert (sent[1]["content"][0]["type"] in ("thinking", "redacted_thinking")) is thinks


async def test_an_answer_of_another_models_tools_is_gone_on_with_without_thinking(valkey: str) -> None:
    call = v1.ToolCall(id="call_1", name="look", arguments="{}")
    other = v1.ProviderState(wire="gemini", state=b"\x00")
    asked = asked_with(
        said(v1.ROLE_USER, "what is it?"),
        said(v1.ROLE_ASSISTANT, v1.Part(provider_state=other), v1.Part(tool_call=call)),
        said(v1.ROLE_TOOL, v1.Part(tool_result=v1.ToolResult(tool_call_id="call_1", content="it rains"))),
        tools=[LOOK],
        reasoning_effort=v1.REASONING_EFFORT_LOW,
    )
    async with asking_claude(AnthropicSimulator(), valkey) as rig:
        answer = await rig.stream(asked)
    assert answer.choices[0].content.text
    assert not answer.choices[0].content.reasoning


async def test_thoughts_are_counted_and_streamed_before_the_answer(valkey: str) -> None:
    async with asking_claude(AnthropicSimulator(), valkey) as rig:
        answer = await rig.stream(claude(model=NEW, reasoning_effort=v1.REASONING_EFFORT_LOW))
    assert answer.choices[0].content.reasoning == "Simulated thought."
    assert (answer.usage.reasoning_tokens, answer.usage.completion_tokens) == (2, 8)


async def test_images_a_schema_and_a_demanded_tool_are_taken(valkey: str) -> None:
    image = v1.Image(data=b"\x89PNG", mime_type="image/png")
    async with asking_claude(AnthropicSimulator(), valkey) as rig:
        seen = await rig.stream(asked_with(said(v1.ROLE_USER, v1.Part(image=image), "what is this?")))
        held = await rig.stream(claude(constraint=v1.OutputConstraint(json_schema=json.dumps(SCHEMA))))
        called = await rig.stream(claude(tools=[LOOK], tool_choice=v1.ToolChoice(name="look")))
    assert seen.choices[0].content.text == "Simulated cloud answer to: what is this?"
    assert json.loads(held.choices[0].content.text) == {"label": "billing", "score": 0}
    made = called.choices[0].content.tool_calls[0]
    assert (made.id, made.name) == ("toolu_simulated_0", "look")
    assert json.loads(made.arguments) == {"label": "billing", "score": 0}


async def test_what_is_kept_of_a_prompt_is_written_once_and_read_after_that(valkey: str) -> None:
    rules = said(v1.ROLE_SYSTEM, "one two three", cache_breakpoint=True)
    async with asking_claude(AnthropicSimulator(), valkey) as rig:
        first = await rig.stream(asked_with(rules, said(v1.ROLE_USER, "a")))
        second = await rig.stream(asked_with(rules, said(v1.ROLE_USER, "b")))
    usages = [
        (usage.prompt_tokens, usage.cache_write_prompt_tokens, usage.cached_prompt_tokens)
        for usage in (first.usage, second.usage)
    ]
    assert usages == [(10, 6, 0), (10, 0, 6)]


async def test_stops_lengths_and_refusals_are_finish_reasons(valkey: str) -> None:
    scripted = Faults(None, None, None, faults.Refusal(), faults.Filtered(after=2))
    async with asking_claude(AnthropicSimulator(faults=scripted), valkey, default_answer_tokens=3) as rig:
        stopped = await rig.stream(claude(stop=v1.Stop(strings=["answer"])))
        cut = await rig.stream(claude(sampling=v1.Sampling(max_tokens=2)))
        unbounded = await rig.stream(claude())
        refused = await rig.stream(claude())
        filtered = await rig.stream(claude())
    finishes = [answer.choices[0].finish for answer in (stopped, cut, unbounded, refused, filtered)]
    assert (finishes[0].reason, finishes[0].stop_string) == (v1.FINISH_REASON_STOP_SEQUENCE, "answer")
    assert [finish.reason for finish in finishes[1:3]] == [v1.FINISH_REASON_LENGTH] * 2
    assert [finish.reason for finish in finishes[3:]] == [v1.FINISH_REASON_CONTENT_FILTER] * 2
    assert unbounded.usage.completion_tokens == 3


async def test_an_answer_that_was_begun_is_gone_on_with(valkey: str) -> None:
    begun = claude(model=PREFILLED, continuation=v1.Continuation(text="Simulated cloud"))
    async with asking_claude(AnthropicSimulator(takes_prefill=True), valkey) as rig:
        assert (await rig.stream(begun)).choices[0].content.text == " answer to: hello there"
        with pytest.raises(ConstraintUnsupported, match=r"spec\.continuation\.text"):
            await rig.stream(claude(model=NEW, continuation=v1.Continuation(text="Simulated cloud")))


async def test_what_cannot_be_asked_for_reaches_nobody(valkey: str) -> None:
    simulator = AnthropicSimulator()
    async with asking_claude(simulator, valkey) as rig:
        with pytest.raises(ConstraintUnsupported) as caught:
            await rig.stream(claude(sampling=v1.Sampling(seed=1)))
    assert [violation.field for violation in caught.value.fields] == ["spec.sampling.seed"]
    assert simulator.seen == []


async def test_what_the_provider_refuses_names_the_parameter(valkey: str) -> None:
    asked = claude()
    asked.extra.update({"logit_bias": {}})
    async with asking_claude(AnthropicSimulator(), valkey) as rig:
        with pytest.raises(errors.RequestInvalid, match="answered 400 invalid_request_error") as caught:
            await rig.stream(asked)
        tools = [v1.Tool(name="a", parameters_json_schema='{"type": "array"}')]
        with pytest.raises(errors.RequestInvalid, match=r"tools\.0\.custom\.input_schema\.type"):
            await rig.stream(claude(tools=tools))
    assert type(caught.value) is errors.RequestInvalid


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.context_length_exceeded(), errors.ContextLengthExceeded),
        (faults.content_policy_violation(), errors.ContentFiltered),
        (faults.out_of_credit(), errors.ProviderOutOfCredit),
        (faults.rate_limited(), errors.ProviderRateLimited),
        (faults.overloaded(), errors.ProviderError),
        (faults.Refuse(errors.TargetDown()), errors.ProviderError),
        (Status(401), errors.ProviderAuthFailed),
        (Status(403), errors.ProviderAuthFailed),
        (Status(404), errors.TargetModelMissing),
        (Status(413), errors.RequestInvalid),
        (Status(500), errors.ProviderError),
        (Status(504), errors.TargetTimeout),
        (Page(), errors.ProviderError),
        (Reset(), errors.TargetDown),
        (Cut(after=2), errors.TargetDown),
        (Stall(after=2), errors.TargetTimeout),
        (Malformed(after=2), errors.ProviderError),
        (ErrorInStream(after=2, type="overloaded_error"), errors.ProviderError),
        (ErrorInStream(after=2, type="invalid_request_error"), errors.RequestInvalid),
        (ErrorInStream(after=0, code=429), errors.ProviderRateLimited),
        (faults.MissingDone(), errors.ProviderError),
        (faults.MissingFinish(after=2), errors.ProviderError),
        (faults.Filtered(after=0), errors.ContentFiltered),
    ],
)
async def test_a_failure_has_its_reason_and_the_next_request_is_answered(
    valkey: str, fault: HttpFault, kind: type[SpillwayError]
) -> None:
    simulator = AnthropicSimulator(faults=Faults(fault))
    async with asking_claude(simulator, valkey, stall_s=0.2) as rig:
        with pytest.raises(kind) as caught:
            await rig.stream(claude())
        assert type(caught.value) is kind
        assert (await rig.stream(claude())).usage.completion_tokens == 6
    assert simulator.running == 0


async def test_a_model_that_is_gone_and_a_wait_are_told(valkey: str) -> None:
    gone, busy = (
        AnthropicSimulator(models=("claude-other",)),
        AnthropicSimulator(faults=Faults(faults.overloaded(retry_after_s=9))),
    )
    async with asking_claude(gone, valkey) as rig:
        with pytest.raises(errors.TargetModelMissing):
            await rig.stream(claude())
    async with asking_claude(busy, valkey) as rig:
        with pytest.raises(errors.ProviderError) as caught:
            await rig.stream(claude())
    assert caught.value.retry_after_s == 9
    assert caught.value.metadata["http_status"] == "529"


async def test_a_caller_that_leaves_ends_the_providers_work(valkey: str) -> None:
    simulator = AnthropicSimulator(faults=Faults(Stall(after=2)))
    async with asking_claude(simulator, valkey, stall_s=60) as rig:
        async with aclosing(rig.events(claude())) as stream:
            assert (await anext(stream)).HasField("started")
            assert simulator.seen[0].disconnected_at is None
        await simulator.left.wait()
    assert simulator.seen[0].disconnected_at is not None
    assert simulator.running == 0
