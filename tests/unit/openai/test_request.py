"""A `GenerationSpec` as OpenAI takes it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid, SchemaInvalid, SpillwayError
from spillway.openai.request import body_of, is_strict
from spillway.testing.openai_wire import PARAMETERS


def chat(*messages: v1.Message) -> v1.Chat:
    return v1.Chat(messages=messages or [user("hello")])


def user(text: str) -> v1.Message:
    return v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=text)])


def body(spec: v1.GenerationSpec, **how: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"max_tokens_field": "max_completion_tokens", "extended_sampling": False}
    return body_of(spec, "gpt-4o-mini", **{**settings, **how})


def test_a_plain_chat_asks_for_a_stream_with_usage() -> None:
    assert body(v1.GenerationSpec(chat=chat())) == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_text_becomes_one_user_message() -> None:
    told = body(v1.GenerationSpec(text=v1.TextPrompt(text="go on")))
    assert told["messages"] == [{"role": "user", "content": "go on"}]


def test_every_kind_of_message_has_its_form() -> None:
    spec = v1.GenerationSpec(
        chat=chat(
            v1.Message(role=v1.ROLE_SYSTEM, parts=[v1.Part(text="be brief")], name="ops"),
            v1.Message(
                role=v1.ROLE_USER,
                parts=[
                    v1.Part(text="what is this?"),
                    v1.Part(image=v1.Image(url="https://example.com/a.png")),
                    v1.Part(image=v1.Image(data=b"\x01\x02", mime_type="image/png")),
                ],
            ),
            v1.Message(
                role=v1.ROLE_ASSISTANT,
                parts=[v1.Part(tool_call=v1.ToolCall(id="c1", name="look", arguments='{"a":1}'))],
            ),
            v1.Message(
                role=v1.ROLE_TOOL,
                parts=[
                    v1.Part(tool_result=v1.ToolResult(tool_call_id="c1", content="a cat")),
                    v1.Part(tool_result=v1.ToolResult(tool_call_id="c2", content="a dog")),
                ],
            ),
        )
    )
    assert body(spec)["messages"] == [
        {"role": "system", "name": "ops", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AQI="}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        {"role": "tool", "tool_call_id": "c2", "content": "a dog"},
    ]


def test_sampling_stop_logprobs_and_effort_have_the_providers_names() -> None:
    spec = v1.GenerationSpec(
        chat=chat(),
        sampling=v1.Sampling(
            temperature=0.7,
            top_p=0.9,
            presence_penalty=0.1,
            frequency_penalty=-0.2,
            seed=7,
            max_tokens=50,
            n=2,
            top_k=-1,
            logit_bias={15: -100, 3: 0.5},
        ),
        stop=v1.Stop(strings=["END"]),
        logprobs=v1.Logprobs(top=3),
        reasoning_effort=v1.REASONING_EFFORT_LOW,
    )
    told = body(spec)
    assert told | {"messages": 0} == {
        "model": "gpt-4o-mini",
        "messages": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.2,
        "seed": 7,
        "max_completion_tokens": 50,
        "n": 2,
        "logit_bias": {"3": 0.5, "15": -100},
        "stop": ["END"],
        "logprobs": True,
        "top_logprobs": 3,
        "reasoning_effort": "low",
    }
    assert set(told) <= PARAMETERS
    assert body(spec, max_tokens_field="max_tokens")["max_tokens"] == 50


@pytest.mark.parametrize(
    ("ttl_s", "retention"), [(None, None), (0, None), (300, None), (301, "24h"), (3600, "24h"), (1_000_000, "24h")]
)
def test_a_prompt_is_asked_to_be_kept_longer_only_where_that_is_needed(
    ttl_s: int | None, retention: str | None
) -> None:
    spec = v1.GenerationSpec(chat=chat(), prompt_cache=v1.PromptCache(key="k", ttl_s=ttl_s))
    told = body(spec, prompt_cache=True)
    assert (told["prompt_cache_key"], told.get("prompt_cache_retention")) == ("k", retention)
    assert set(told) <= PARAMETERS
    assert body(spec) == body(v1.GenerationSpec(chat=chat()))


def test_a_server_that_knows_no_stream_options_is_sent_none() -> None:
    assert "stream_options" not in body(v1.GenerationSpec(chat=chat()), stream_usage=False)


def test_an_answer_that_is_only_checked_is_not_held_to_its_constraint() -> None:
    for constraint in ({"regex": "a"}, {"json_object": True}):
        checked = v1.OutputConstraint(**constraint, enforcement=v1.ENFORCEMENT_CHECKED)
        assert "response_format" not in body(v1.GenerationSpec(chat=chat(), constraint=checked))


def test_what_a_tool_said_keeps_the_tools_name_and_its_failure_is_in_its_words() -> None:
    failed = v1.ToolResult(tool_call_id="c1", content="no light", is_error=True)
    message = v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=failed)], name="look")
    assert body(v1.GenerationSpec(chat=chat(message)))["messages"] == [
        {"role": "tool", "tool_call_id": "c1", "content": "no light", "name": "look"}
    ]


def test_hints_and_states_that_have_no_place_here_change_nothing() -> None:
    state = v1.Part(provider_state=v1.ProviderState(wire="anthropic", state=b"x"))
    marked = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="hello")], cache_breakpoint=True)
    silent = v1.Message(role=v1.ROLE_ASSISTANT, parts=[state])
    assert body(v1.GenerationSpec(chat=chat(marked, silent)))["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": ""},
    ]


def test_all_that_is_sent_is_known_to_the_sdk() -> None:
    assert set(CompletionCreateParamsStreaming.__annotations__) >= PARAMETERS - {"stream"}


def test_tools_and_their_choice() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    spec = v1.GenerationSpec(
        chat=chat(),
        tools=[v1.Tool(name="weather", description="now", parameters_json_schema=json.dumps(schema))],
        tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED),
    )
    told = body(spec)
    assert told["tools"] == [
        {"type": "function", "function": {"name": "weather", "description": "now", "parameters": schema}}
    ]
    assert told["tool_choice"] == "required"
    spec.tool_choice.name = "weather"
    assert body(spec)["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


def test_without_tools_no_choice_among_them_is_told_unless_a_call_is_asked_for() -> None:
    for mode, told in (
        (v1.TOOL_CHOICE_MODE_AUTO, None),
        (v1.TOOL_CHOICE_MODE_NONE, None),
        (v1.TOOL_CHOICE_MODE_REQUIRED, "required"),
    ):
        assert body(v1.GenerationSpec(chat=chat(), tool_choice=v1.ToolChoice(mode=mode))).get("tool_choice") == told


CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": ["integer", "null"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def test_a_schema_that_strict_mode_takes_is_sent_strict() -> None:
    spec = v1.GenerationSpec(chat=chat(), constraint=v1.OutputConstraint(json_schema=json.dumps(CLOSED)))
    assert body(spec)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": CLOSED, "strict": True},
    }
    spec = v1.GenerationSpec(chat=chat(), constraint=v1.OutputConstraint(json_object=True))
    assert body(spec)["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        {**CLOSED, "required": ["a"]},
        {**CLOSED, "properties": {"a": {"type": "object", "properties": {}}, "b": {}}},
        {**CLOSED, "allOf": [{}]},
        {"type": "array", "items": {"type": "object"}},
        {"$defs": {"x": {"type": "object"}}, **CLOSED},
        {},
        {"type": "string"},
        {"type": "array", "items": CLOSED},
        {**CLOSED, "anyOf": [CLOSED]},
        {**CLOSED, "properties": {"a": {}, "b": {"type": "string"}}},
        {**CLOSED, "properties": {"a": {"enum": ["x"]}, "b": {"type": "string"}}},
        {**CLOSED, "properties": {"a": {"type": ["object", "null"]}, "b": {"type": "string"}}},
        {**CLOSED, "properties": {"a": {"type": "string", "default": "x"}, "b": {"type": "string"}}},
        {**CLOSED, "$defs": {"x": CLOSED}, "properties": {"a": {"$ref": "#/$defs/x", "title": "A"}, "b": CLOSED}},
    ],
)
def test_a_schema_that_strict_mode_refuses_is_sent_without_it(schema: dict[str, Any]) -> None:
    assert not is_strict(schema)


@pytest.mark.parametrize(
    "part", [{"$ref": "#/$defs/x"}, {"anyOf": [CLOSED, {"type": "null"}]}, {"type": "array", "items": CLOSED}]
)
def test_a_part_of_a_strict_schema_may_be_one_of_several_or_stand_elsewhere(part: dict[str, Any]) -> None:
    assert is_strict({**CLOSED, "$defs": {"x": CLOSED}, "properties": {"a": part, "b": CLOSED}})


def test_extra_parameters_are_merged_below_those_of_the_contract() -> None:
    extra = Struct()
    extra.update({"service_tier": "flex", "stream": False, "model": "other", "top_logprobs": 5, "metadata": {"a": 1.5}})
    told = body(v1.GenerationSpec(chat=chat(), extra=extra))
    assert told["service_tier"] == "flex"
    assert told["stream"] is True
    assert told["model"] == "gpt-4o-mini"
    assert told["top_logprobs"] == 5
    assert isinstance(told["top_logprobs"], int)
    assert told["metadata"] == {"a": 1.5}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1])), "spec.tokens"),
        (v1.GenerationSpec(text=v1.TextPrompt(text="a", suffix="b")), "spec.text.suffix"),
        (v1.GenerationSpec(chat=chat(), constraint=v1.OutputConstraint(regex="a+")), "spec.constraint.regex"),
        (v1.GenerationSpec(chat=chat(), constraint=v1.OutputConstraint(grammar="a")), "spec.constraint.grammar"),
        (
            v1.GenerationSpec(chat=chat(), constraint=v1.OutputConstraint(choices=v1.Choices(values=["a"]))),
            "spec.constraint.choices",
        ),
        (v1.GenerationSpec(chat=chat(), adapter="lora"), "spec.adapter"),
        (v1.GenerationSpec(chat=chat(), logprobs=v1.Logprobs(prompt=0)), "spec.logprobs.prompt"),
        (v1.GenerationSpec(chat=chat(), sampling=v1.Sampling(top_k=5)), "spec.sampling.top_k"),
        (v1.GenerationSpec(chat=chat(), sampling=v1.Sampling(min_p=0.1)), "spec.sampling.min_p"),
        (v1.GenerationSpec(chat=chat(), stop=v1.Stop(ignore_eos=True)), "spec.stop.ignore_eos"),
    ],
)
def test_what_a_provider_cannot_do_is_refused_by_its_field(spec: v1.GenerationSpec, path: str) -> None:
    with pytest.raises(ConstraintUnsupported) as caught:
        body(spec)
    assert [violation.field for violation in caught.value.fields] == [path]


def test_a_compatible_server_takes_the_extended_parameters() -> None:
    spec = v1.GenerationSpec(
        chat=chat(), sampling=v1.Sampling(top_k=5, min_tokens=2), stop=v1.Stop(token_ids=[9], ignore_eos=True)
    )
    told = body(spec, extended_sampling=True)
    assert {name: told[name] for name in ("top_k", "min_tokens", "stop_token_ids", "ignore_eos")} == {
        "top_k": 5,
        "min_tokens": 2,
        "stop_token_ids": [9],
        "ignore_eos": True,
    }


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (
            v1.Message(role=v1.ROLE_SYSTEM, parts=[v1.Part(image=v1.Image(url="x"))]),
            "spec.chat.messages[0].parts[0]",
        ),
        (v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(text="x")]), "spec.chat.messages[0].parts[0]"),
        (
            v1.Message(role=v1.ROLE_USER, parts=[v1.Part(image=v1.Image(data=b"x"))]),
            "spec.chat.messages[0].parts[0].image",
        ),
    ],
)
def test_a_part_in_the_wrong_place_is_named(message: v1.Message, path: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        body(v1.GenerationSpec(chat=chat(message)))
    assert [violation.field for violation in caught.value.fields] == [path]


def test_a_tool_whose_schema_is_no_json_is_named() -> None:
    spec = v1.GenerationSpec(chat=chat(), tools=[v1.Tool(name="a"), v1.Tool(name="b", parameters_json_schema="{")])
    with pytest.raises(SchemaInvalid) as caught:
        body(spec)
    error: SpillwayError = caught.value
    assert error.fields[0].field == "spec.tools[1].parameters_json_schema"


BEGUN = v1.Continuation(text="Your parcel")


@pytest.mark.parametrize(
    ("prefill", "told", "beside"),
    [
        ("plain", {}, {}),
        ("prefix", {"prefix": True}, {}),
        ("continue_final_message", {}, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
def test_an_answer_that_was_begun_is_the_last_message_in_the_form_the_provider_takes(
    prefill: str, told: dict[str, Any], beside: dict[str, Any]
) -> None:
    plain = body(v1.GenerationSpec(chat=chat()))
    made = body(v1.GenerationSpec(chat=chat(), continuation=BEGUN), prefill=prefill)
    assert made.pop("messages") == [*plain.pop("messages"), {"role": "assistant", "content": "Your parcel", **told}]
    assert made == {**plain, **beside}


def test_what_the_caller_began_itself_is_part_of_the_beginning() -> None:
    began = v1.Message(role=v1.ROLE_ASSISTANT, parts=[v1.Part(text="Dear Ann. ")])
    told = body(v1.GenerationSpec(chat=chat(user("hello"), began), continuation=BEGUN), prefill="plain")
    assert told["messages"][1:] == [{"role": "assistant", "content": "Dear Ann. Your parcel"}]


@pytest.mark.parametrize(
    ("spec", "prefill", "field"),
    [
        (v1.GenerationSpec(chat=chat(), continuation=BEGUN), None, "spec.continuation.text"),
        (v1.GenerationSpec(text=v1.TextPrompt(text="a"), continuation=BEGUN), "plain", "spec.continuation.text"),
        (v1.GenerationSpec(chat=chat(), continuation=v1.Continuation()), "plain", "spec.continuation.text"),
        (
            v1.GenerationSpec(chat=chat(), continuation=v1.Continuation(token_ids=[1], text="a")),
            "plain",
            "spec.continuation.token_ids",
        ),
        (
            v1.GenerationSpec(chat=chat(), continuation=BEGUN, constraint=v1.OutputConstraint(json_object=True)),
            "plain",
            "spec.constraint",
        ),
    ],
    ids=["no prefill", "completion", "empty", "tokens", "constraint"],
)
def test_a_beginning_that_cannot_be_continued_is_refused_by_field(
    spec: v1.GenerationSpec, prefill: str | None, field: str
) -> None:
    with pytest.raises(RequestInvalid) as refused:
        body(spec, prefill=prefill)
    assert refused.value.fields[0].field == field
