"""Mistral through the whole proxy: asked in its own words, answered in ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from services.cloud_proxy.wires.mistral import own_id
from spillway import errors, v1
from spillway.testing import openai_faults as faults
from spillway.testing.mistral_simulator import MistralSimulator
from spillway.testing.openai_faults import Cut, ErrorInStream, Faults, HttpFault, MissingFinish, Page, Status
from spillway.testing.openai_wire import Called
from tests.integration.cloud_proxy.rig import Rig, running, spec
from tests.integration.cloud_proxy.test_embeddings import embed

MODEL = "mistral/mistral-small-latest"
TOOL = v1.Tool(name="look", parameters_json_schema='{"type": "object", "properties": {"city": {"type": "string"}}}')
ALL = ["json_schema", "json_object", "tools", "text_input", "images", "prefill", "reasoning_effort", "suffix"]


@asynccontextmanager
async def mistral(simulator: MistralSimulator, valkey: str, **more: Any) -> AsyncIterator[Rig]:
    models = [{"name": "mistral-small-latest", "capabilities": ALL}]
    settings = {"name": "mistral", "kind": "mistral", "prefill": "prefix", "models": models, "price_list": "mistral"}
    async with running(simulator, valkey, **{**settings, **more}) as rig:
        yield rig


def asked(text: str = "hello there", **more: Any) -> v1.GenerationSpec:
    return spec(text, **{"model": MODEL, **more})


def said(role: v1.Role.ValueType, *parts: v1.Part) -> v1.Message:
    return v1.Message(role=role, parts=parts)


async def test_an_answer_comes_with_its_usage_and_cost_unasked(valkey: str) -> None:
    simulator = MistralSimulator(cached_tokens=2)
    async with mistral(simulator, valkey) as rig:
        answer = await rig.stream(asked())
    [choice] = answer.choices
    assert choice.content.text == "Simulated cloud answer to: hello there"
    assert choice.finish.reason == v1.FINISH_REASON_STOP
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.cached_prompt_tokens) == (5, 6, 2)
    assert answer.usage.cost_nano_usd > 0
    [seen] = simulator.seen
    assert seen.path == "/v1/chat/completions"
    assert "stream_options" not in seen.body


async def test_parameters_go_out_by_mistrals_names(valkey: str) -> None:
    simulator, extra = MistralSimulator(), Struct()
    extra.update({"safe_prompt": True, "prompt_mode": "reasoning"})
    wanted = asked(
        sampling=v1.Sampling(seed=7, max_tokens=20, temperature=0.7, n=2, top_k=5, min_tokens=1),
        stop=v1.Stop(strings=["END"]),
        reasoning_effort=v1.REASONING_EFFORT_HIGH,
        prompt_cache=v1.PromptCache(key="chat-9"),
        constraint=v1.OutputConstraint(json_object=True),
        extra=extra,
    )
    async with mistral(simulator, valkey) as rig:
        answer = await rig.stream(wanted)
    body = simulator.seen[0].body
    assert len(answer.choices) == 2
    assert {name: value for name, value in body.items() if name != "messages"} == {
        "model": "mistral-small-latest",
        "stream": True,
        "random_seed": 7,
        "max_tokens": 20,
        "temperature": 0.7,
        "n": 2,
        "top_k": 5,
        "min_tokens": 1,
        "stop": ["END"],
        "reasoning_effort": "high",
        "prompt_cache_key": "chat-9",
        "response_format": {"type": "json_object"},
        "safe_prompt": True,
        "prompt_mode": "reasoning",
    }


async def test_a_tool_is_called_and_its_result_goes_back_whoever_made_the_id(valkey: str) -> None:
    simulator = MistralSimulator()
    must = v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED)
    foreign = "call_PTLP8xhu3uwZk4l3nlnrrJha"
    async with mistral(simulator, valkey) as rig:
        answer = await rig.stream(asked(tools=[TOOL], tool_choice=must))
        [made] = answer.choices[0].content.tool_calls
        for id in (made.id, foreign):
            messages = [
                said(v1.ROLE_USER, v1.Part(text="weather?")),
                said(v1.ROLE_ASSISTANT, v1.Part(tool_call=v1.ToolCall(id=id, name="look", arguments=made.arguments))),
                said(v1.ROLE_TOOL, v1.Part(tool_result=v1.ToolResult(tool_call_id=id, content="sunny"))),
            ]
            again = await rig.stream(asked(chat=v1.Chat(messages=messages), tools=[TOOL]))
            assert again.choices[0].finish.reason == v1.FINISH_REASON_STOP
    assert (made.id, made.name, answer.choices[0].finish.reason) == ("simcall00", "look", v1.FINISH_REASON_TOOL_CALLS)
    assert simulator.seen[0].body["tool_choice"] == "any"
    sent = [seen.body["messages"] for seen in simulator.seen[1:]]
    ids = [(called["tool_calls"][0]["id"], result["tool_call_id"]) for _, called, result in sent]
    assert ids == [("simcall00", "simcall00"), (own_id(foreign), own_id(foreign))]


async def test_several_calls_of_one_answer_stay_apart(valkey: str) -> None:
    both = [Called("look", '{"city": "Bern"}'), Called("look", '{"city": "Rome"}')]
    async with mistral(MistralSimulator(calls=lambda body: both), valkey) as rig:
        answer = await rig.stream(asked(tools=[TOOL]))
    calls = answer.choices[0].content.tool_calls
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Bern", "Rome"]
    assert [call.id for call in calls] == ["simcall00", "simcall01"]


async def test_reasoning_comes_apart_and_what_was_signed_goes_back_as_it_came(valkey: str) -> None:
    simulator = MistralSimulator(thinking=("Let me ", "think."), signature="sig-1")
    async with mistral(simulator, valkey) as rig:
        answer = await rig.stream(asked())
        content = answer.choices[0].content
        assert (content.reasoning, content.text) == ("Let me think.", "Simulated cloud answer to: hello there")
        turn = said(v1.ROLE_ASSISTANT, v1.Part(provider_state=content.provider_state), v1.Part(text=content.text))
        other = v1.ProviderState(wire="anthropic", state=b"theirs")
        messages = [
            said(v1.ROLE_USER, v1.Part(text="hello there")),
            turn,
            said(v1.ROLE_USER, v1.Part(text="and then?")),
            said(v1.ROLE_ASSISTANT, v1.Part(provider_state=other), v1.Part(text="so")),
            said(v1.ROLE_USER, v1.Part(text="go on")),
        ]
        await rig.stream(asked(chat=v1.Chat(messages=messages)))
    _, first, _, second, _ = simulator.seen[1].body["messages"]
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me think."}], "signature": "sig-1"}
    assert first["content"] == [thought, {"type": "text", "text": content.text}]
    assert second["content"] == "so"


async def test_an_answer_that_was_begun_goes_on_without_its_beginning_repeated(valkey: str) -> None:
    simulator = MistralSimulator()
    for begun in ("Sim", "Simulated cloud", "Simulated cloud answer to: hello there"):
        async with mistral(simulator, valkey) as rig:
            answer = await rig.stream(asked(continuation=v1.Continuation(text=begun)))
        assert begun + answer.choices[0].content.text == "Simulated cloud answer to: hello there"
        assert simulator.seen[-1].body["messages"][-1] == {"role": "assistant", "content": begun, "prefix": True}


async def test_a_middle_is_filled_in(valkey: str) -> None:
    simulator = MistralSimulator()
    between = v1.TextPrompt(text="def f(", suffix="return 3")
    async with mistral(simulator, valkey) as rig:
        answer = await rig.stream(v1.GenerationSpec(model=MODEL, text=between, sampling=v1.Sampling(max_tokens=4)))
        with pytest.raises(errors.ConstraintUnsupported) as raised:
            await rig.stream(v1.GenerationSpec(model=MODEL, text=between, tools=[TOOL], sampling=v1.Sampling(n=2)))
    [seen] = simulator.seen
    assert (seen.path, seen.body["prompt"], seen.body["suffix"]) == ("/v1/fim/completions", "def f(", "return 3")
    assert answer.choices[0].finish.reason == v1.FINISH_REASON_LENGTH
    assert [violation.field for violation in raised.value.fields] == ["spec.sampling.n", "spec.tools"]


async def test_an_image_goes_as_its_url_alone(valkey: str) -> None:
    simulator = MistralSimulator()
    parts = [v1.Part(text="what?"), v1.Part(image=v1.Image(url="https://example.com/a.png"))]
    async with mistral(simulator, valkey) as rig:
        await rig.stream(asked(chat=v1.Chat(messages=[said(v1.ROLE_USER, *parts)])))
    [message] = simulator.seen[0].body["messages"]
    assert message["content"][1] == {"type": "image_url", "image_url": "https://example.com/a.png"}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"sampling": v1.Sampling(logit_bias={1: 2.0})}, "spec.sampling.logit_bias"),
        ({"sampling": v1.Sampling(min_p=0.1)}, "spec.sampling.min_p"),
        ({"stop": v1.Stop(ignore_eos=True)}, "spec.stop"),
        ({"constraint": v1.OutputConstraint(regex="a+")}, "spec.constraint.regex"),
        ({"logprobs": v1.Logprobs(prompt=1)}, "spec.logprobs.prompt"),
        (
            {"chat": v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, name="Ann", parts=[v1.Part(text="x")])])},
            "spec.chat.messages",
        ),
    ],
)
async def test_what_mistral_cannot_do_is_told_and_not_sent(valkey: str, more: dict[str, Any], field: str) -> None:
    simulator = MistralSimulator()
    async with mistral(simulator, valkey) as rig:
        with pytest.raises(errors.ConstraintUnsupported) as raised:
            await rig.stream(asked(**more))
    assert ([violation.field for violation in raised.value.fields], simulator.seen) == ([field], [])


@pytest.mark.parametrize(
    ("fault", "kind", "wait"),
    [
        (Status(401, message="Unauthorized"), errors.ProviderAuthFailed, None),
        (Status(402, message="Payment required"), errors.ProviderOutOfCredit, None),
        (faults.rate_limited(3), errors.ProviderRateLimited, 3.0),
        (Status(400, "model_not_found"), errors.TargetModelMissing, None),
        (faults.context_length_exceeded(), errors.ContextLengthExceeded, None),
        (Status(422, "extra_forbidden", param="nonsense"), errors.RequestInvalid, None),
        (faults.overloaded(), errors.ProviderError, None),
        (Page(502), errors.ProviderError, None),
        (ErrorInStream(code="1300", type="rate_limited"), errors.ProviderRateLimited, None),
        (ErrorInStream(code=None, type="internal_server_error"), errors.ProviderError, None),
        (MissingFinish(), errors.ProviderError, None),
        (Cut(after=1), errors.TargetDown, None),
    ],
)
async def test_every_failure_has_its_reason(
    valkey: str, fault: HttpFault, kind: type[errors.SpillwayError], wait: float | None
) -> None:
    async with mistral(MistralSimulator(faults=Faults(fault)), valkey) as rig:
        with pytest.raises(kind) as raised:
            await rig.stream(asked())
    assert type(raised.value) is kind
    assert raised.value.retry_after_s == wait


async def test_an_unknown_parameter_is_named_and_the_servers_sentence_is_not_passed_on(valkey: str) -> None:
    extra = Struct()
    extra.update({"stream_options": {"include_usage": True}, "verbosity": "low"})
    async with mistral(MistralSimulator(), valkey) as rig:
        with pytest.raises(errors.RequestInvalid) as raised:
            await rig.stream(asked(extra=extra))
    assert [violation.field for violation in raised.value.fields] == ["mistral:verbosity"]
    assert "Extra inputs" not in raised.value.message


async def test_vectors_are_shortened_by_mistrals_own_parameter(valkey: str) -> None:
    simulator = MistralSimulator()
    models = [{"name": "mistral-embed", "capabilities": ["embeddings"]}]
    async with mistral(simulator, valkey, models=models, prefill=None) as rig:
        response = await embed(rig, "one", "two", model="mistral/mistral-embed", dimensions=4)
    assert [len(one.values) for one in response.embeddings] == [4, 4]
    assert response.usage.prompt_tokens == 2
    assert simulator.seen[0].body == {
        "model": "mistral-embed",
        "input": ["one", "two"],
        "encoding_format": "float",
        "output_dimension": 4,
    }
