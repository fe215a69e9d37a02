from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from services.router.http.chat_request import read_chat
from services.router.http.completion_request import read_completion
from spillway import v1
from spillway.errors import RequestInvalid

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "look", "description": "see", "parameters": {"type": "object"}}}


def chat(**more: Any) -> v1.GenerationSpec:
    return read_chat({"model": "auto", "messages": [USER], **more}).spec


def spec(**more: Any) -> v1.GenerationSpec:
    """A spec of the one message above, with `more` in the contract's JSON."""
    return ParseDict(
        {"chat": {"messages": [{"role": "ROLE_USER", "parts": [{"text": "hi"}]}]}, **more}, v1.GenerationSpec()
    )


def shown(url: str, **more: str) -> dict[str, Any]:
    """Messages with one image."""
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, **more}}]}]}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"model": "gpt-4o"}, {"model": "gpt-4o"}),
        (
            {"temperature": 0, "top_p": 0.5, "seed": -7, "n": 2},
            {"sampling": {"temperature": 0, "top_p": 0.5, "seed": "-7", "n": 2}},
        ),
        (
            {"presence_penalty": 1, "frequency_penalty": -1},
            {"sampling": {"presence_penalty": 1, "frequency_penalty": -1}},
        ),
        (
            {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.5, "min_tokens": 1},
            {"sampling": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.5, "min_tokens": 1}},
        ),
        ({"max_tokens": 5}, {"sampling": {"max_tokens": 5}}),
        ({"max_completion_tokens": 6}, {"sampling": {"max_tokens": 6}}),
        ({"max_completion_tokens": 6, "max_tokens": 6}, {"sampling": {"max_tokens": 6}}),
        ({"logit_bias": {"50256": -100}}, {"sampling": {"logit_bias": {"50256": -100}}}),
        ({"stop": "END"}, {"stop": {"strings": ["END"]}}),
        ({"stop": ["a", "b"], "ignore_eos": True}, {"stop": {"strings": ["a", "b"], "ignore_eos": True}}),
        (
            {"stop_token_ids": [1], "include_stop_str_in_output": True},
            {"stop": {"token_ids": [1], "include_stop": True}},
        ),
        ({"logprobs": True}, {"logprobs": {}}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": {"top": 3}}),
        ({"logprobs": False}, {}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "REASONING_EFFORT_HIGH"}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"constraint": {"json_object": True}}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "strict": True, "schema": {"type": "null"}},
                }
            },
            {"constraint": {"json_schema": '{"type":"null"}'}},
        ),
        (
            {"tools": [TOOL]},
            {"tools": [{"name": "look", "description": "see", "parameters_json_schema": '{"type":"object"}'}]},
        ),
        ({"tool_choice": "auto"}, {}),
        (
            {"verbosity": "low", "parallel_tool_calls": False},
            {"extra": {"verbosity": "low", "parallel_tool_calls": False}},
        ),
        ({"parallel_tool_calls": True, "modalities": ["text"]}, {}),
        (
            {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
            {"prompt_cache": {"key": "k", "ttl_s": 86_400}},
        ),
        ({"prompt_cache_options": {"mode": "implicit", "ttl": "30m"}}, {"prompt_cache": {"ttl_s": 1800}}),
        ({"prompt_cache_retention": "in_memory"}, {}),
        ({"prompt_cache_retention": "in-memory"}, {}),  # as the SDK spelt it once
        ({"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "prediction": {}}, {}),
        ({"temperature": None, "tools": None, "stream_options": None}, {}),
    ],
)
def test_a_parameter_becomes_a_field(asked: dict[str, Any], found: dict[str, Any]) -> None:
    assert chat(**asked) == spec(**found)


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        ("required", v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED)),
        ("none", v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_NONE)),
        ({"type": "function", "function": {"name": "look"}}, v1.ToolChoice(name="look")),
    ],
)
def test_a_tool_is_chosen_as_the_caller_says(choice: Any, found: v1.ToolChoice) -> None:
    assert chat(tools=[TOOL], tool_choice=choice).tool_choice == found


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"role": "developer", "content": "x"}, {"role": "ROLE_SYSTEM", "parts": [{"text": "x"}]}),
        (
            {"role": "user", "content": "x", "name": "Ada"},
            {"role": "ROLE_USER", "parts": [{"text": "x"}], "name": "Ada"},
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "ROLE_USER", "parts": [{"text": "a"}, {"text": "b"}]},
        ),
        (
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "https://a.test/b", "detail": "auto"}}],
            },
            {"role": "ROLE_USER", "parts": [{"image": {"url": "https://a.test/b"}}]},
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}}]},
            {"role": "ROLE_USER", "parts": [{"image": {"data": "AAEC", "mime_type": "image/png"}}]},
        ),
        (
            {
                "role": "assistant",
                "content": "",
                "refusal": None,
                "annotations": [],
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "ROLE_ASSISTANT", "parts": [{"tool_call": {"id": "c", "name": "f", "arguments": "{}"}}]},
        ),
        (
            {"role": "assistant", "content": "a", "provider_state": {"wire": "anthropic", "state": "AAEC"}},
            {
                "role": "ROLE_ASSISTANT",
                "parts": [{"provider_state": {"wire": "anthropic", "state": "AAEC"}}, {"text": "a"}],
            },
        ),
        (
            {"role": "system", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
            {"role": "ROLE_SYSTEM", "parts": [{"text": "a"}], "cache_breakpoint": True},
        ),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}],
            },
            {"role": "ROLE_USER", "parts": [{"text": "a"}], "cache_breakpoint": True},
        ),
        (
            {"role": "tool", "tool_call_id": "c", "content": "42"},
            {"role": "ROLE_TOOL", "parts": [{"tool_result": {"tool_call_id": "c", "content": "42"}}]},
        ),
    ],
)
def test_a_message_becomes_a_message(message: dict[str, Any], found: dict[str, Any]) -> None:
    assert chat(messages=[message]).chat.messages[0] == ParseDict(found, v1.Message())


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "mood": "good"}]}, "messages[0].mood"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        (shown("file:///x"), "messages[0].content[0].image_url.url"),
        (shown("data:image/png;base64,!"), "messages[0].content[0].image_url.url"),
        (shown("https://a.test", detail="high"), "messages[0].content[0].image_url.detail"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, "messages[0].tool_calls[0]"),
        (
            {"messages": [{"role": "assistant", "content": "x", "provider_state": {"state": "!"}}]},
            "messages[0].provider_state.state",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"for": 1}}]}]},
            "messages[0].content[0].cache_control.for",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "provider_state": {"state": "é"}}]},
            "messages[0].provider_state.state",
        ),
        ({"prompt_cache_retention": "week"}, "prompt_cache_retention"),
        ({"prompt_cache_options": {"ttl": "week"}}, "prompt_cache_options.ttl"),
        ({"model": 7}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"seed": 2**63}, "seed"),
        ({"n": 1.0}, "n"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": float("inf")}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"stop": 7}, "stop"),
        ({"stop": [7]}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "some"}, "tool_choice"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"chunk": 1}}, "stream_options.chunk"),
        ({"functions": []}, "functions"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        chat(**asked)
    assert [field.field for field in caught.value.fields] == [param]


def test_usage_of_a_stream_is_told_where_it_is_asked_for() -> None:
    body = {"messages": [USER], "stream": True}
    assert read_chat(body).stream
    assert not read_chat(body).include_usage
    assert read_chat({**body, "stream_options": {"include_usage": True}}).include_usage


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"prompt": "a"}, v1.GenerationSpec(text=v1.TextPrompt(text="a"))),
        ({"prompt": ["a"], "suffix": "b"}, v1.GenerationSpec(text=v1.TextPrompt(text="a", suffix="b"))),
        ({"prompt": "", "suffix": "b"}, v1.GenerationSpec(text=v1.TextPrompt(text="", suffix="b"))),
        ({"prompt": [1, 2]}, v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1, 2]))),
        ({"prompt": [[1, 2]]}, v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1, 2]))),
        ({"prompt": "a", "logprobs": 2}, v1.GenerationSpec(text=v1.TextPrompt(text="a"), logprobs=v1.Logprobs(top=2))),
        ({"prompt": "a", "echo": False, "best_of": 1, "user": "me"}, v1.GenerationSpec(text=v1.TextPrompt(text="a"))),
    ],
)
def test_a_completion_becomes_a_spec(asked: dict[str, Any], found: v1.GenerationSpec) -> None:
    assert read_completion(json.loads(json.dumps(asked))).spec == found


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": "", "suffix": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [2**32]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [1], "suffix": "b"}, "suffix"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
)
def test_a_completion_that_cannot_be_taken_is_refused_by_name(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        read_completion(asked)
    assert [field.field for field in caught.value.fields] == [param]
