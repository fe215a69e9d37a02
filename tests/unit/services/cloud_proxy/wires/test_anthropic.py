"""What Anthropic is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.anthropic_models import traits_of
from spillway import v1
from tests.unit.services.cloud_proxy.wires.anthropic_chats import (
    MYTHOS,
    NEW,
    OLD,
    PREFILLED,
    THOUGHT,
    asked,
    assistant,
    called,
    chat,
    hello,
    result,
    state,
    system,
    user,
    wire,
)

EPHEMERAL = {"type": "ephemeral"}


# Conversations.


def test_the_least_that_is_asked_for() -> None:
    assert asked(hello()) == {
        "model": OLD,
        "stream": True,
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    }


def test_a_text_prompt_is_the_users_message() -> None:
    assert asked(v1.GenerationSpec(text=v1.TextPrompt(text="once"))) == asked(chat(user("once")))


def test_the_system_prompt_stands_at_the_top_wherever_it_was_said() -> None:
    body = asked(chat(system("one"), user("hello"), assistant("hi"), system("two"), user("again")))
    assert [block["text"] for block in body["system"]] == ["one", "two"]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]


def test_messages_of_one_role_that_follow_one_another_are_one_turn() -> None:
    body = asked(chat(user("a"), user("b"), assistant("c"), assistant("d"), user("e")))
    assert [[block["text"] for block in turn["content"]] for turn in body["messages"]] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
    ]


def test_results_of_tools_are_one_message_of_the_users_and_stand_before_its_text() -> None:
    body = asked(
        chat(user("where"), assistant("", called("t1"), called("t2")), result("t1"), result("t2"), user("and now?"))
    )
    _, calls, answers = body["messages"]
    assert calls["content"] == [
        {"type": "tool_use", "id": id, "name": "look", "input": {"city": "Rome"}} for id in ("t1", "t2")
    ]
    assert answers == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "of t1"},
            {"type": "tool_result", "tool_use_id": "t2", "content": "of t2"},
            {"type": "text", "text": "and now?"},
        ],
    }


def test_a_failed_tool_is_told_as_one() -> None:
    failed = result("t1", is_error=True)
    failed.name = "look"
    body = asked(chat(user("where"), assistant(called()), failed))
    assert body["messages"][-1]["content"][0]["is_error"] is True


def test_images_go_by_address_or_by_their_bytes() -> None:
    body = asked(
        chat(
            user(
                v1.Part(image=v1.Image(url="https://example.com/a.png")),
                v1.Part(image=v1.Image(data=b"\x01\x02", mime_type="image/png")),
            )
        )
    )
    assert [block["source"] for block in body["messages"][0]["content"]] == [
        {"type": "url", "url": "https://example.com/a.png"},
        {"type": "base64", "media_type": "image/png", "data": "AQI="},
    ]


def test_tools_and_the_choice_among_them() -> None:
    tools = [
        v1.Tool(name="look", description="d", parameters_json_schema='{"properties":{"city":{"type":"string"}}}'),
        v1.Tool(name="wait"),
    ]
    body = asked(hello(tools=tools))
    assert body["tools"] == [
        {
            "name": "look",
            "description": "d",
            "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
        {"name": "wait", "input_schema": {"type": "object"}},
    ]
    assert "tool_choice" not in body
    for choice, told in (
        (v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_AUTO), {"type": "auto"}),
        (v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_NONE), {"type": "none"}),
        (v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED), {"type": "any"}),
        (v1.ToolChoice(name="look"), {"type": "tool", "name": "look"}),
    ):
        assert asked(hello(tools=tools, tool_choice=choice))["tool_choice"] == told
    assert "tool_choice" not in asked(hello(tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_AUTO)))


# Thinking.


def effort(level: v1.ReasoningEffort.ValueType, model: str, *messages: v1.Message, **more: Any) -> dict[str, Any]:
    return asked(chat(*(messages or (user("hello"),)), reasoning_effort=level, **more), model)


@pytest.mark.parametrize(
    ("model", "level", "thinking", "max_tokens"),
    [
        (OLD, v1.REASONING_EFFORT_UNSPECIFIED, None, 1024),
        (OLD, v1.REASONING_EFFORT_NONE, {"type": "disabled"}, 1024),
        (OLD, v1.REASONING_EFFORT_LOW, {"type": "enabled", "budget_tokens": 2048}, 3072),
        (OLD, v1.REASONING_EFFORT_HIGH, {"type": "enabled", "budget_tokens": 16_384}, 17_408),
        (NEW, v1.REASONING_EFFORT_UNSPECIFIED, None, 1024),
        (NEW, v1.REASONING_EFFORT_NONE, {"type": "disabled"}, 1024),
        (NEW, v1.REASONING_EFFORT_MEDIUM, {"type": "adaptive", "display": "summarized"}, 9216),
        (MYTHOS, v1.REASONING_EFFORT_UNSPECIFIED, None, 17_408),
    ],
)
def test_an_effort_is_a_budget_for_older_models_and_an_effort_for_newer_ones(
    model: str, level: v1.ReasoningEffort.ValueType, thinking: object, max_tokens: int
) -> None:
    body = effort(level, model)
    assert body.get("thinking") == thinking
    assert body["max_tokens"] == max_tokens
    wanted = {"effort": "medium"} if thinking == {"type": "adaptive", "display": "summarized"} else None
    assert body.get("output_config") == wanted


def test_the_budget_is_less_than_the_longest_answer() -> None:
    body = effort(v1.REASONING_EFFORT_HIGH, OLD, sampling=v1.Sampling(max_tokens=1500))
    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (1500, 1024)


def test_thoughts_go_back_to_where_they_stood_and_those_of_another_wire_are_left_out() -> None:
    other = v1.Part(provider_state=v1.ProviderState(wire="gemini", state=b"x"))
    redacted = {"type": "redacted_thinking", "data": "xx"}
    body = effort(
        v1.REASONING_EFFORT_LOW,
        OLD,
        user("where"),
        assistant(state((0, THOUGHT), (1, redacted)), other, "I look.", called()),
        result("t1"),
    )
    assert [block["type"] for block in body["messages"][1]["content"]] == [
        *("thinking", "text", "redacted_thinking", "tool_use")
    ]
    assert body["messages"][1]["content"][0] == THOUGHT
    assert body["thinking"]["type"] == "enabled"


@pytest.mark.parametrize(
    ("model", "messages", "thinking"),
    [
        (OLD, [user("a"), assistant(called()), result("t1")], "disabled"),
        (NEW, [user("a"), assistant(called()), result("t1")], "adaptive"),
        (OLD, [user("a"), assistant(state((0, THOUGHT)), called()), result("t1")], "enabled"),
        (
            OLD,
            [user("a"), assistant(state((0, THOUGHT)), called()), result("t1"), assistant(called("t2")), result("t2")],
            "enabled",
        ),
        (OLD, [user("a"), assistant(called()), result("t1"), assistant("so"), user("b")], "enabled"),
    ],
)
def test_a_model_with_a_budget_thinks_on_about_tools_only_with_its_own_thoughts(
    model: str, messages: list[v1.Message], thinking: str
) -> None:
    assert effort(v1.REASONING_EFFORT_LOW, model, *messages)["thinking"]["type"] == thinking


@pytest.mark.parametrize(
    ("model", "thinking", "sampling"),
    [
        ("claude-3-7-sonnet-20250219", "budget", True),
        ("claude-sonnet-4-20250514", "budget", True),
        ("claude-opus-4-5-20251101", "budget", True),
        ("claude-sonnet-4-6", "adaptive", True),
        ("claude-opus-4-7", "adaptive", False),
        ("claude-sonnet-5", "adaptive", False),
        ("claude-haiku-5-5", "adaptive", False),
        ("claude-fable-5-1", "always", False),
        ("claude-mythos-preview", "always", False),
        ("ours", "adaptive", True),
    ],
)
def test_what_a_model_takes_is_known_by_its_name(model: str, thinking: str, sampling: bool) -> None:
    traits = traits_of(model, None)
    assert (traits.thinking, traits.sampling) == (thinking, sampling)
    assert traits_of(model, "budget").thinking == "budget"


# Caching.


def marks(body: dict[str, Any]) -> list[str]:
    blocks = [*body.get("system", ()), *(block for turn in body["messages"] for block in turn["content"])]
    return [block["text"] for block in blocks if "cache_control" in block]


def test_a_breakpoint_marks_the_last_block_of_its_message() -> None:
    body = asked(chat(system("s", "t", cache_breakpoint=True), user("a", "b", cache_breakpoint=True), user("c")))
    assert marks(body) == ["t", "b"]
    assert body["system"][1]["cache_control"] == EPHEMERAL


def test_the_last_four_breakpoints_are_marked() -> None:
    assert marks(asked(chat(*(user(text, cache_breakpoint=True) for text in "abcdef")))) == list("cdef")


@pytest.mark.parametrize(("ttl_s", "ttl"), [(None, None), (1, "5m"), (300, "5m"), (301, "1h"), (3600, "1h")])
def test_a_cache_without_breakpoints_keeps_all_of_the_prompt_for_the_next_longer_time(
    ttl_s: int | None, ttl: str | None
) -> None:
    body = asked(chat(user("a"), user("b"), prompt_cache=v1.PromptCache(ttl_s=ttl_s)))
    assert marks(body) == ["b"]
    assert body["messages"][0]["content"][1]["cache_control"] == ({**EPHEMERAL, "ttl": ttl} if ttl else EPHEMERAL)


# The rest of a request.


def test_sampling_and_stops() -> None:
    body = asked(hello(sampling=v1.Sampling(temperature=0.7, top_p=0.9, top_k=5), stop=v1.Stop(strings=["END"])))
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.7, 0.9, 5)
    assert body["stop_sequences"] == ["END"]


def test_what_is_off_or_the_default_is_not_sent() -> None:
    off = v1.Sampling(temperature=1, top_p=1, top_k=-1, min_p=0, n=1, presence_penalty=0, repetition_penalty=1)
    assert asked(hello(sampling=off), NEW).keys() == asked(hello(), NEW).keys()


def test_what_only_this_provider_knows_passes_and_stands_behind_what_the_contract_says() -> None:
    spec = hello(reasoning_effort=v1.REASONING_EFFORT_LOW)
    spec.extra.update(
        {
            "metadata": {"user_id": "u"},
            "model": "other",
            "output_config": {"effort": "max", "task": 1},
            "anthropic-beta": "a-2026,b-2026",
        }
    )
    prepared = wire().prepare(spec, NEW)
    body = json.loads(prepared.body)
    assert (body["metadata"], body["model"], body["output_config"]) == (
        {"user_id": "u"},
        NEW,
        {"effort": "low", "task": 1},
    )
    assert "anthropic-beta" not in body
    assert prepared.headers == {"anthropic-beta": "a-2026,b-2026"}


def test_tools_that_the_provider_runs_stand_beside_those_of_the_caller() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    spec = hello(tools=[v1.Tool(name="look")], tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_AUTO))
    spec.extra.update({"tools": [search], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}})
    body = asked(spec)
    assert body["tools"] == [{"name": "look", "input_schema": {"type": "object"}}, search]
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


def test_half_a_character_goes_on_as_it_was_escaped() -> None:
    half = called(arguments='{"a":"\\ud83d"}')
    assert asked(chat(user("a"), assistant(half), result("t1")))["messages"][1]["content"][0]["input"] == {
        "a": "\ud83d"
    }


def test_an_answer_that_was_begun_is_gone_on_with_by_models_that_do() -> None:
    begun = hello(continuation=v1.Continuation(text="The sky"), reasoning_effort=v1.REASONING_EFFORT_LOW)
    body = asked(begun, PREFILLED)
    assert body["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "The sky"}]}
    assert body["thinking"] == {"type": "disabled"}
    assert (
        asked(chat(user("hello"), assistant("The "), continuation=v1.Continuation(text="sky")), PREFILLED)["messages"]
        == (body["messages"])
    )


def test_an_answer_is_held_to_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]}
    body = asked(hello(constraint=v1.OutputConstraint(json_schema=json.dumps(schema))))
    assert body["output_config"] == {
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {"a": {"type": "integer", "description": '{"minimum": 3}'}},
                "required": ["a"],
                "additionalProperties": False,
            },
        }
    }


def test_an_answer_that_is_only_checked_is_not_held_to_its_constraint() -> None:
    for constraint in (v1.OutputConstraint(regex="a"), v1.OutputConstraint(json_schema='{"type":"object"}')):
        constraint.enforcement = v1.ENFORCEMENT_CHECKED
        assert asked(hello(constraint=constraint)) == asked(hello())


def test_models_are_not_taken_to_answer_with_any_json_object() -> None:
    told = {"name": "claude", "kind": "anthropic", "region": "us", "models": [{"name": OLD}]}
    [model] = ProviderSettings.model_validate(told).models
    assert model.capabilities == {"json_schema", "tools", "text_input"}
