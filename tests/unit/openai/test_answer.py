"""Chunks read into deltas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.cloud_proxy.provider import Exchange
from spillway import v1
from spillway.errors import ContentFiltered, ProviderError, ProviderRateLimited
from spillway.openai.answer import DONE, Answer


def chunk(delta: dict[str, Any], *, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": index, "delta": delta, "finish_reason": finish, **more}]}).encode()


def answer(choices: int = 1) -> tuple[Answer, Exchange]:
    exchange = Exchange()
    return Answer("openai", choices, exchange), exchange


def test_everything_of_one_read_is_one_delta_per_choice() -> None:
    taken, _ = answer(2)
    deltas = taken.take(
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "a"}),
            chunk({"content": "x"}, index=1),
            chunk({"content": "b"}),
        ]
    )
    assert [(delta.choice, delta.text) for delta in deltas] == [(0, "ab"), (1, "x")]
    assert taken.take([chunk({"role": "assistant"})]) == []


def test_tool_calls_are_merged_by_choice_and_index_and_named_once() -> None:
    taken, _ = answer()
    opening = {"index": 1, "id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}
    first = taken.take([chunk({"tool_calls": [opening]})])
    more = taken.take(
        [
            chunk({"tool_calls": [{"index": 1, "function": {"arguments": '{"a"'}}]}),
            chunk({"tool_calls": [{**opening, "function": {"name": "look", "arguments": ":1}"}}]}),
        ]
    )
    assert list(first[0].tool_calls) == [v1.ToolCallDelta(index=1, id="c1", name="look")]
    assert list(more[0].tool_calls) == [v1.ToolCallDelta(index=1, arguments='{"a":1}')]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", v1.FINISH_REASON_STOP),
        ("length", v1.FINISH_REASON_LENGTH),
        ("tool_calls", v1.FINISH_REASON_TOOL_CALLS),
        ("function_call", v1.FINISH_REASON_TOOL_CALLS),
        ("content_filter", v1.FINISH_REASON_CONTENT_FILTER),
    ],
)
def test_finish_reasons_are_typed(finish: str, reason: v1.FinishReason.ValueType) -> None:
    taken, exchange = answer()
    taken.take([chunk({"content": "a"}), chunk({}, finish=finish), DONE])
    taken.check()
    assert [choice.reason for choice in exchange.finishes] == [reason]


def test_a_refusal_is_said_and_ends_as_filtered() -> None:
    taken, exchange = answer()
    deltas = taken.take([chunk({"refusal": "I can't"}), chunk({}, finish="stop"), DONE])
    taken.check()
    assert deltas[0].text == "I can't"
    assert exchange.finishes[0].reason == v1.FINISH_REASON_CONTENT_FILTER


def test_a_filter_before_any_word_is_an_error_and_not_an_empty_answer() -> None:
    taken, _ = answer()
    taken.take([chunk({}, finish="content_filter"), DONE])
    with pytest.raises(ContentFiltered):
        taken.check()


def test_the_stop_string_is_told_where_the_server_tells_it() -> None:
    taken, exchange = answer()
    taken.take([chunk({"content": "a"}), chunk({}, finish="stop", stop_reason="END"), DONE])
    taken.check()
    assert exchange.finishes[0] == v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP_SEQUENCE, stop_string="END")


@pytest.mark.parametrize(
    "events",
    [
        [chunk({"content": "a"})],
        [chunk({"content": "a"}), DONE],
        [chunk({"content": "a"}), chunk({}, finish="stop")],
        [chunk({"content": "a"}, finish="stop"), DONE],
    ],
)
def test_a_truncated_answer_is_never_whole(events: list[bytes]) -> None:
    taken, _ = answer(2)
    taken.take(events)
    with pytest.raises(ProviderError):
        taken.check()


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[1]",
        b'"text"',
        b"null",
        b'{"choices": [1]}',
        b'{"choices": [{"index": "x", "delta": {}}]}',
        b'{"usage": {"prompt_tokens": "many"}}',
        b'{"usage": {"prompt_tokens": -1}}',
        b"\xff\xfe",
        chunk({"content": 5}),
        chunk({"content": "x"}, index=7),
        chunk({"tool_calls": "x"}),
        chunk({}, finish="error"),
    ],
)
def test_what_is_not_of_the_wire_format_is_an_error(data: bytes) -> None:
    taken, _ = answer()
    with pytest.raises(ProviderError):
        taken.take([data])


def test_an_error_within_the_stream_is_seen() -> None:
    taken, _ = answer()
    with pytest.raises(ProviderRateLimited):
        taken.take([chunk({"content": "a"}), b'{"error": {"code": 429, "message": "x"}}'])


def test_an_error_within_a_choice_is_seen() -> None:
    taken, _ = answer()
    with pytest.raises(ProviderRateLimited):
        taken.take([chunk({"content": ""}, finish="error", error={"code": 429, "message": "x"})])


def test_usage_is_told_once_and_unknown_is_absent() -> None:
    taken, exchange = answer()
    taken.take([b'{"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 5}}'])
    assert exchange.usage == v1.Usage(prompt_tokens=12, completion_tokens=5)
    assert not exchange.usage.HasField("cached_prompt_tokens")
    details = {
        "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    told = {"prompt_tokens": 12, "completion_tokens": 5, **details}
    taken.take([json.dumps({"choices": [], "usage": told}).encode()])
    assert exchange.usage == v1.Usage(
        prompt_tokens=12, completion_tokens=5, cached_prompt_tokens=8, cache_write_prompt_tokens=2, reasoning_tokens=3
    )


def test_logprobs_and_reasoning_pass() -> None:
    taken, _ = answer()
    told = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1.5}]}
    deltas = taken.take([chunk({"content": "a", "reasoning_content": "hm"}, logprobs={"content": [told]})])
    assert deltas[0].reasoning == "hm"
    assert deltas[0].logprobs[0] == v1.TokenLogprob(
        token="a", logprob=-0.5, top=[v1.TopLogprob(token="b", logprob=-1.5)]
    )
