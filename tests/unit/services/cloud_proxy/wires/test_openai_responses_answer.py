"""Events of the Responses API read into deltas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.wires.openai_responses_answer import ResponsesAnswer
from spillway import errors, v1
from spillway.errors import ProviderError, SpillwayError

MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
CALL = {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "look", "arguments": ""}
USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 3},
}


def event(kind: str, **told: Any) -> bytes:
    return json.dumps({"type": kind if kind == "error" else f"response.{kind}", **told}).encode()


def words(text: str, at: int = 0) -> bytes:
    return event("output_text.delta", output_index=at, content_index=0, delta=text, logprobs=[])


def response(status: str = "completed", *output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"status": status, "model": "gpt-5-nano", "output": list(output), "store": False, "usage": None, **more}


def ended(status: str = "completed", **more: Any) -> bytes:
    return event(status, response=response(status, **more))


def said(text: str, kind: str = "output_text") -> dict[str, Any]:
    return {**MESSAGE, "content": [{"type": kind, "refusal" if kind == "refusal" else "text": text}]}


def answer() -> tuple[ResponsesAnswer, Exchange]:
    exchange = Exchange()
    return ResponsesAnswer("openai", exchange), exchange


def test_everything_of_one_read_is_one_delta() -> None:
    taken, exchange = answer()
    [delta] = taken.take([event("created", response=response("in_progress")), words("a"), words("b")])
    assert (delta.choice, delta.text) == (0, "ab")
    assert taken.take([event("in_progress", response=response("in_progress"))]) == []
    assert taken.take([ended(usage=USAGE)]) == []
    taken.check()
    assert (exchange.model, exchange.said_bytes) == ("gpt-5-nano", 2)
    assert exchange.usage == v1.Usage(
        prompt_tokens=12,
        cached_prompt_tokens=8,
        cache_write_prompt_tokens=4,
        completion_tokens=5,
        reasoning_tokens=3,
    )


def test_calls_are_numbered_as_they_come_and_named_once() -> None:
    taken, exchange = answer()
    second = {**CALL, "id": "fc_2", "call_id": "c2", "name": "go"}
    [delta] = taken.take(
        [
            event("output_item.added", output_index=1, item=CALL),
            event("output_item.added", output_index=3, item=second),
            event("function_call_arguments.delta", output_index=3, delta='{"b"'),
            event("function_call_arguments.delta", output_index=1, delta="{}"),
        ]
    )
    [more] = taken.take(
        [
            event("function_call_arguments.delta", output_index=3, delta=":1}"),
            event("function_call_arguments.done", output_index=3, arguments='{"b":1}'),
            event("output_item.done", output_index=3, item={**second, "arguments": '{"b":1}'}),
            ended(),
        ]
    )
    assert list(delta.tool_calls) == [
        v1.ToolCallDelta(index=0, id="c1", name="look", arguments="{}"),
        v1.ToolCallDelta(index=1, id="c2", name="go", arguments='{"b"'),
    ]
    assert list(more.tool_calls) == [v1.ToolCallDelta(index=1, arguments=":1}")]
    taken.check()
    assert [finish.reason for finish in exchange.finishes] == [v1.FINISH_REASON_TOOL_CALLS]


def test_what_comes_without_deltas_is_read_with_its_item_or_with_the_answer() -> None:
    thought = {"id": "rs", "type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}], "encrypted_content": "e"}
    items = [thought, said("hello"), {**CALL, "arguments": "{}"}]
    in_items, _ = answer()
    [first] = in_items.take([event("output_item.done", output_index=at, item=item) for at, item in enumerate(items)])
    [state] = in_items.take([ended()])
    at_the_end, _ = answer()
    [second] = at_the_end.take([event("completed", response=response("completed", *items))])
    in_one_piece, _ = answer()
    [third] = in_one_piece.whole(json.dumps(response("completed", *items)).encode())
    assert (first.text, first.reasoning, first.tool_calls[0].arguments) == ("hello", "a\n\nb", "{}")
    first.MergeFrom(state)
    assert first == second == third


def test_parts_of_reasoning_stand_apart() -> None:
    taken, _ = answer()
    deltas = [
        event("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="one"),
        event("reasoning_summary_text.delta", output_index=0, summary_index=0, delta=" two"),
        event("reasoning_summary_text.delta", output_index=0, summary_index=1, delta="three"),
        event("reasoning_text.delta", output_index=2, content_index=0, delta="four"),
    ]
    [delta] = taken.take(deltas)
    assert delta.reasoning == "one two\n\nthree\n\nfour"


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([words("a"), ended()], v1.FINISH_REASON_STOP),
        (
            [words("a"), ended("incomplete", incomplete_details={"reason": "max_output_tokens"})],
            v1.FINISH_REASON_LENGTH,
        ),
        (
            [words("a"), ended("incomplete", incomplete_details={"reason": "content_filter"})],
            v1.FINISH_REASON_CONTENT_FILTER,
        ),
        (
            [event("refusal.delta", output_index=0, content_index=0, delta="I can't"), ended()],
            v1.FINISH_REASON_CONTENT_FILTER,
        ),
        (
            [event("output_item.done", output_index=0, item=said("no", "refusal")), ended()],
            v1.FINISH_REASON_CONTENT_FILTER,
        ),
        ([ended()], v1.FINISH_REASON_STOP),
    ],
)
def test_finish_reasons_are_typed(events: list[bytes], reason: v1.FinishReason.ValueType) -> None:
    taken, exchange = answer()
    taken.take(events)
    taken.check()
    assert taken.done
    assert [finish.reason for finish in exchange.finishes] == [reason]


def test_a_filter_before_any_word_is_an_error_and_not_an_empty_answer() -> None:
    taken, _ = answer()
    taken.take([ended("incomplete", incomplete_details={"reason": "content_filter"})])
    with pytest.raises(errors.ContentFiltered):
        taken.check()


@pytest.mark.parametrize(
    "events",
    [
        [],
        [words("a")],
        [words("a"), b"[DONE]"],
        [words("a"), event("output_item.done", output_index=0, item=said("a"))],
    ],
)
def test_a_truncated_answer_is_never_whole(events: list[bytes]) -> None:
    taken, _ = answer()
    taken.take(events)
    with pytest.raises(ProviderError):
        taken.check()


@pytest.mark.parametrize(
    "last",
    [
        ended("incomplete", incomplete_details={"reason": "steered"}),
        ended("incomplete"),
        event("completed", response=response("cancelled")),
        event("completed", response=response("queued")),
    ],
)
def test_an_end_of_another_kind_is_no_end(last: bytes) -> None:
    taken, _ = answer()
    with pytest.raises(ProviderError):
        taken.take([words("a"), last])


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe",
        event("completed"),
        event("completed", response=response(usage={"input_tokens": "many"})),
        event("completed", response=response("completed", {"type": "message"})),
        event("output_item.added", output_index=0, item=None),
        event("output_item.done", output_index=0, item={"type": "function_call"}),
        event("function_call_arguments.delta", output_index=9, delta="x"),
        event("output_text.delta", delta="x"),
        event("output_text.delta", output_index=0, delta=5),
        event("output_text.delta", output_index=0, delta="x", logprobs=[5]),
    ],
)
def test_what_is_not_of_the_wire_format_is_an_error(data: bytes) -> None:
    taken, _ = answer()
    with pytest.raises(ProviderError):
        taken.take([data])


NESTED = {"type": "tokens", "code": "rate_limit_exceeded", "message": "Please try again in 6.57s.", "param": None}
HEADERS = {"X-RateLimit-Remaining-Tokens": "0", "x-ratelimit-reset-tokens": "50.5s"}


@pytest.mark.parametrize(
    ("data", "kind", "wait"),
    [
        (event("error", code="server_error", message="x", param=None), ProviderError, None),
        (event("error", error=NESTED), errors.ProviderRateLimited, 6.57),
        (event("error", error={**NESTED, "headers": HEADERS}), errors.ProviderRateLimited, 50.5),
        (b'{"error": {"code": 429, "message": "x"}}', errors.ProviderRateLimited, None),
        (ended("failed", error={"code": "rate_limit_exceeded", "message": ""}), errors.ProviderRateLimited, None),
        (ended("failed", error={"code": "server_error", "message": ""}), ProviderError, None),
        (ended("failed", error={"code": "invalid_prompt", "message": ""}), errors.ContentFiltered, None),
        (ended("failed", error={"code": "bio_policy", "message": ""}), errors.ContentFiltered, None),
        (ended("failed", error={"code": "image_parse_error", "message": ""}), errors.RequestInvalid, None),
        (ended("failed", error={"code": "data_residency_mismatch", "message": ""}), errors.ProviderAuthFailed, None),
        (ended("failed", error={"code": "vector_store_timeout", "message": ""}), errors.TargetTimeout, None),
        (ended("failed", error=None), ProviderError, None),
    ],
)
def test_an_error_within_the_stream_is_seen(data: bytes, kind: type[SpillwayError], wait: float | None) -> None:
    taken, _ = answer()
    with pytest.raises(kind) as caught:
        taken.take([words("a"), data])
    assert type(caught.value) is kind
    assert caught.value.retry_after_s == wait
    assert "try again" not in str(caught.value)


def test_an_answer_in_one_piece_that_failed_is_an_error() -> None:
    taken, exchange = answer()
    with pytest.raises(errors.ProviderRateLimited):
        taken.whole(json.dumps(response("failed", error={"code": "rate_limit_exceeded"}, usage=USAGE)).encode())
    assert exchange.usage is not None
    assert exchange.usage.completion_tokens == 5


def test_what_is_not_known_yet_is_read_over() -> None:
    taken, exchange = answer()
    taken.take(
        [event("web_search_call.searching", output_index=0), event("queued", response=response("queued")), ended()]
    )
    taken.check()
    assert len(exchange.finishes) == 1


def test_logprobs_come_with_their_words() -> None:
    told = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1.5}]}
    taken, _ = answer()
    [delta] = taken.take([event("output_text.delta", output_index=0, content_index=0, delta="a", logprobs=[told])])
    assert delta.logprobs[0] == v1.TokenLogprob(token="a", logprob=-0.5, top=[v1.TopLogprob(token="b", logprob=-1.5)])
