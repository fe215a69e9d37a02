"""A `GenerationSpec` as the Responses API takes it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming

from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.openai_responses import OpenAIResponses
from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid, SchemaInvalid, SpillwayError
from spillway.testing.responses_simulator import PARAMETERS

STRICT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def body(spec: v1.GenerationSpec, *capabilities: str, **more: Any) -> dict[str, Any]:
    model = {"name": "gpt-5-nano", "capabilities": capabilities or ("tools",)}
    told = {"name": "openai", "kind": "openai-responses", "region": "us", "models": [model], **more}
    prepared = OpenAIResponses(ProviderSettings.model_validate(told)).prepare(spec, "gpt-5-nano")
    assert (prepared.path, prepared.choices) == ("responses", 1)
    made: dict[str, Any] = json.loads(prepared.body)
    return made


def said(role: v1.Role.ValueType, *parts: v1.Part, name: str = "") -> v1.Message:
    return v1.Message(role=role, parts=parts, name=name)


def user(text: str = "hello") -> v1.Message:
    return said(v1.ROLE_USER, v1.Part(text=text))


def chat(*messages: v1.Message, **more: Any) -> v1.GenerationSpec:
    return v1.GenerationSpec(chat=v1.Chat(messages=messages or [user()]), **more)


def test_a_plain_chat_asks_for_a_stream_and_that_nothing_is_kept() -> None:
    plain = {
        "model": "gpt-5-nano",
        "input": [{"role": "user", "content": "hello"}],
        "stream": True,
        "store": False,
    }
    assert body(chat()) == plain
    assert body(v1.GenerationSpec(text=v1.TextPrompt(text="hello"))) == plain


def test_every_kind_of_message_has_its_items() -> None:
    spec = chat(
        said(v1.ROLE_SYSTEM, v1.Part(text="be brief")),
        said(v1.ROLE_SYSTEM, v1.Part(text="be"), v1.Part(text="kind")),
        said(
            v1.ROLE_USER,
            v1.Part(text="what is this?"),
            v1.Part(image=v1.Image(url="https://example.com/a.png")),
            v1.Part(image=v1.Image(data=b"\x01\x02", mime_type="image/png")),
        ),
        said(
            v1.ROLE_ASSISTANT,
            v1.Part(provider_state=v1.ProviderState(wire="anthropic", state=b"theirs")),
            v1.Part(text="I look."),
            v1.Part(tool_call=v1.ToolCall(id="c1", name="look", arguments='{"a":1}')),
        ),
        said(
            v1.ROLE_TOOL,
            v1.Part(tool_result=v1.ToolResult(tool_call_id="c1", content="no light", is_error=True)),
            name="look",
        ),
    )
    told = body(spec)
    assert told["instructions"] == "be brief"
    assert told["input"] == [
        {
            "role": "system",
            "content": [{"type": "input_text", "text": "be"}, {"type": "input_text", "text": "kind"}],
        },
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "what is this?"},
                {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
                {"type": "input_image", "image_url": "data:image/png;base64,AQI=", "detail": "auto"},
            ],
        },
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "no light", "name": "look"},
    ]


def test_what_the_system_alone_says_is_input_and_not_instructions() -> None:
    told = body(chat(said(v1.ROLE_SYSTEM, v1.Part(text="begin"))))
    assert (told["input"], "instructions" in told) == ([{"role": "system", "content": "begin"}], False)


def test_sampling_logprobs_effort_and_cache_have_the_apis_names() -> None:
    spec = chat(
        sampling=v1.Sampling(
            temperature=0.7, top_p=0.9, max_tokens=50, n=1, top_k=-1, presence_penalty=0, frequency_penalty=0
        ),
        logprobs=v1.Logprobs(top=3),
        reasoning_effort=v1.REASONING_EFFORT_LOW,
        prompt_cache=v1.PromptCache(key="k", ttl_s=3600),
    )
    told = body(spec, reasoning_summary="auto")
    assert told | {"input": 0} == {
        "model": "gpt-5-nano",
        "input": 0,
        "stream": True,
        "store": False,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_output_tokens": 50,
        "top_logprobs": 3,
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
    }
    assert set(told) <= PARAMETERS


def test_all_that_is_sent_is_known_to_the_sdk() -> None:
    assert set(ResponseCreateParamsStreaming.__annotations__) >= PARAMETERS - {"stream"}


@pytest.mark.parametrize(
    ("capability", "summary", "include", "reasoning"),
    [
        ("tools", "auto", None, None),
        ("reasoning_effort", None, ["reasoning.encrypted_content"], None),
        ("reasoning_effort", "detailed", ["reasoning.encrypted_content"], {"summary": "detailed"}),
    ],
)
def test_reasoning_is_asked_for_only_of_a_model_that_is_declared_to_reason(
    capability: str, summary: str | None, include: object, reasoning: object
) -> None:
    told = body(chat(), capability, reasoning_summary=summary)
    assert (told.get("include"), told.get("reasoning")) == (include, reasoning)


@pytest.mark.parametrize(
    ("more", "sent"),
    [
        ({}, True),
        ({"base_url": "https://example.com/v1"}, False),
        ({"base_url": "https://example.com/v1", "prompt_cache": True}, True),
        ({"prompt_cache": False}, False),
    ],
)
def test_the_prompt_caches_hint_goes_to_who_knows_it(more: dict[str, Any], sent: bool) -> None:
    told = body(chat(prompt_cache=v1.PromptCache(key="k", ttl_s=60)), **more)
    assert ("prompt_cache_key" in told) is sent
    assert "prompt_cache_retention" not in told  # a minute is what it keeps by itself


def test_tools_say_whether_they_are_strict() -> None:
    tools = [
        v1.Tool(name="a", description="now", parameters_json_schema=json.dumps(STRICT)),
        v1.Tool(name="b", parameters_json_schema='{"type": "object"}'),
        v1.Tool(name="c"),
    ]
    told = body(chat(tools=tools, tool_choice=v1.ToolChoice(name="b")))
    assert told["tools"] == [
        {"type": "function", "name": "a", "description": "now", "parameters": STRICT, "strict": True},
        {"type": "function", "name": "b", "parameters": {"type": "object"}, "strict": False},
        {"type": "function", "name": "c", "parameters": None, "strict": False},
    ]
    assert told["tool_choice"] == {"type": "function", "name": "b"}
    required = v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED)
    assert body(chat(tools=tools, tool_choice=required))["tool_choice"] == "required"


def test_the_format_of_the_answer() -> None:
    held = chat(constraint=v1.OutputConstraint(json_schema=json.dumps(STRICT)))
    assert body(held)["text"] == {"format": {"type": "json_schema", "name": "answer", "schema": STRICT, "strict": True}}
    assert body(chat(constraint=v1.OutputConstraint(json_object=True)))["text"] == {"format": {"type": "json_object"}}


def test_an_answer_that_is_only_checked_is_not_held_to_its_constraint() -> None:
    for constraint in ({"regex": "a"}, {"json_object": True}):
        spec = chat(constraint=v1.OutputConstraint(**constraint, enforcement=v1.ENFORCEMENT_CHECKED))
        assert "text" not in body(spec)


def test_extra_passes_and_what_the_contract_has_a_field_for_lies_over_it() -> None:
    extra = Struct()
    extra.update(
        {
            "store": True,
            "text": {"verbosity": "low"},
            "reasoning": {"summary": "concise", "effort": "high"},
            "include": ["file_search_call.results"],
            "temperature": 2,
        }
    )
    told = body(
        chat(
            extra=extra,
            constraint=v1.OutputConstraint(json_object=True),
            reasoning_effort=v1.REASONING_EFFORT_NONE,
            sampling=v1.Sampling(temperature=0),
        )
    )
    assert told["store"] is True
    assert told["text"] == {"verbosity": "low", "format": {"type": "json_object"}}
    assert told["reasoning"] == {"summary": "concise", "effort": "none"}
    assert told["include"] == ["file_search_call.results", "reasoning.encrypted_content"]
    assert told["temperature"] == 0


@pytest.mark.parametrize("include", ["reasoning.encrypted_content", 5, [5], {"a": 1}])
def test_an_extra_include_that_is_no_list_of_names_is_named(include: Any) -> None:
    extra = Struct()
    extra.update({"include": include})
    with pytest.raises(RequestInvalid) as caught:
        body(chat(extra=extra))
    assert caught.value.fields[0].field == "spec.extra.include"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (chat(adapter="mine"), "spec.adapter"),
        (v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1])), "spec.tokens"),
        (v1.GenerationSpec(text=v1.TextPrompt(text="a", suffix="b")), "spec.text.suffix"),
        (chat(continuation=v1.Continuation(text="a")), "spec.continuation.text"),
        (chat(continuation=v1.Continuation(token_ids=[1])), "spec.continuation.token_ids"),
        (chat(sampling=v1.Sampling(n=2)), "spec.sampling.n"),
        (chat(sampling=v1.Sampling(seed=0)), "spec.sampling.seed"),
        (chat(sampling=v1.Sampling(presence_penalty=0.5)), "spec.sampling.presence_penalty"),
        (chat(sampling=v1.Sampling(frequency_penalty=0.5)), "spec.sampling.frequency_penalty"),
        (chat(sampling=v1.Sampling(repetition_penalty=1.5)), "spec.sampling.repetition_penalty"),
        (chat(sampling=v1.Sampling(top_k=5)), "spec.sampling.top_k"),
        (chat(sampling=v1.Sampling(min_p=0.5)), "spec.sampling.min_p"),
        (chat(sampling=v1.Sampling(min_tokens=5)), "spec.sampling.min_tokens"),
        (chat(sampling=v1.Sampling(logit_bias={1: 1.0})), "spec.sampling.logit_bias"),
        (chat(stop=v1.Stop(strings=["END"])), "spec.stop.strings"),
        (chat(stop=v1.Stop(token_ids=[1])), "spec.stop.token_ids"),
        (chat(stop=v1.Stop(include_stop=True)), "spec.stop.include_stop"),
        (chat(stop=v1.Stop(ignore_eos=True)), "spec.stop.ignore_eos"),
        (chat(logprobs=v1.Logprobs(prompt=1)), "spec.logprobs.prompt"),
        (chat(constraint=v1.OutputConstraint(regex="a")), "spec.constraint.regex"),
        (chat(constraint=v1.OutputConstraint(grammar="a")), "spec.constraint.grammar"),
        (chat(constraint=v1.OutputConstraint(choices=v1.Choices(values=["a"]))), "spec.constraint.choices"),
        (chat(said(v1.ROLE_USER, v1.Part(text="a"), name="Ann")), "spec.chat.messages[0].name"),
    ],
)
def test_what_the_api_has_not_is_refused_by_its_field(spec: v1.GenerationSpec, path: str) -> None:
    with pytest.raises(ConstraintUnsupported) as caught:
        body(spec)
    assert [violation.field for violation in caught.value.fields] == [path]


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (said(v1.ROLE_SYSTEM, v1.Part(image=v1.Image(url="x"))), "spec.chat.messages[0].parts[0]"),
        (said(v1.ROLE_ASSISTANT, v1.Part(image=v1.Image(url="x"))), "spec.chat.messages[0].parts[0]"),
        (said(v1.ROLE_TOOL, v1.Part(text="x")), "spec.chat.messages[0].parts[0]"),
        (said(v1.ROLE_USER, v1.Part(image=v1.Image(data=b"x"))), "spec.chat.messages[0].parts[0].image"),
        *(
            (
                said(v1.ROLE_ASSISTANT, v1.Part(provider_state=v1.ProviderState(wire="openai-responses", state=made))),
                "spec.chat.messages[0].parts[0].provider_state",
            )
            for made in (b"{", b"{}", b"[1]", b'[{"id": "x"}]', b'[{"type": "message"}]', b"\xff")
        ),
    ],
)
def test_a_part_in_the_wrong_place_is_named(message: v1.Message, path: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        body(chat(message))
    assert [violation.field for violation in caught.value.fields] == [path]


def test_a_tool_whose_schema_is_no_json_is_named() -> None:
    with pytest.raises(SchemaInvalid) as caught:
        body(chat(tools=[v1.Tool(name="b", parameters_json_schema="{")]))
    error: SpillwayError = caught.value
    assert error.fields[0].field == "spec.tools[0].parameters_json_schema"


def test_without_tools_no_choice_among_them_is_told() -> None:
    assert "tool_choice" not in body(chat(tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_NONE)))


def test_a_state_nested_without_end_is_refused_with_its_place() -> None:
    nested = v1.Part(provider_state=v1.ProviderState(wire="openai-responses", state=b"[" * 100_000))
    with pytest.raises(RequestInvalid, match=r"spec\.chat\.messages\[1\]\.parts\[0\]\.provider_state"):
        body(chat(user(), said(v1.ROLE_ASSISTANT, nested, v1.Part(text="a")), user()))
