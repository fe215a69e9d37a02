"""What Anthropic's answers, refusals and headers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cloud_proxy.limits import REQUESTS, TOKENS
from services.cloud_proxy.provider import Exchange, Reader
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.anthropic import Anthropic
from spillway import errors, v1
from spillway.errors import SpillwayError
from spillway.generation import merge_delta

MODEL = "claude-haiku-4-5-20251001"
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s1"}


def wire() -> Anthropic:
    told = {"name": "claude", "kind": "anthropic", "region": "us", "models": [{"name": MODEL}]}
    return Anthropic(ProviderSettings.model_validate(told))


def reader(exchange: Exchange) -> Reader:
    hello = v1.GenerationSpec(text=v1.TextPrompt(text="hello"))
    return wire().read(wire().prepare(hello, MODEL), exchange)


def read(*events: dict[str, Any]) -> tuple[v1.Delta, Exchange]:
    """What a stream of `events` comes to, each read by itself."""
    exchange, whole = Exchange(), v1.Delta()
    answer = reader(exchange)
    for event in events:
        for delta in answer.take([json.dumps(event).encode()]):
            merge_delta(whole, delta)
    answer.check()
    return whole, exchange


def start(**usage: int) -> dict[str, Any]:
    return {
        "type": "message_start",
        "message": {"model": MODEL, "usage": {"input_tokens": 5, "output_tokens": 1, **usage}},
    }


def block(index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}}


def piece(index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}


def end(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def stop(reason: str = "end_turn", sequence: str | None = None, **usage: Any) -> dict[str, Any]:
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7, **usage}}


STOP = {"type": "message_stop"}
SAID = (block(0, "text", text=""), piece(0, "text_delta", text="hi"), end(0))


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", v1.FINISH_REASON_STOP),
        ("max_tokens", v1.FINISH_REASON_LENGTH),
        ("model_context_window_exceeded", v1.FINISH_REASON_LENGTH),
        ("pause_turn", v1.FINISH_REASON_LENGTH),
        ("tool_use", v1.FINISH_REASON_TOOL_CALLS),
        ("refusal", v1.FINISH_REASON_CONTENT_FILTER),
    ],
)
def test_every_reason_to_stop_is_one_of_ours(reason: str, finish: v1.FinishReason.ValueType) -> None:
    _, exchange = read(start(), *SAID, stop(reason), STOP)
    assert exchange.finishes == [v1.ChoiceFinish(reason=finish)]


def test_the_string_that_stopped_it_is_told() -> None:
    _, exchange = read(start(), *SAID, stop("stop_sequence", "END"), STOP)
    assert exchange.finishes == [v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP_SEQUENCE, stop_string="END")]


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ((start(), stop("refusal"), STOP), errors.ContentFiltered),
        ((start(), *SAID, stop()), errors.ProviderError),
        ((start(), *SAID, STOP), errors.ProviderError),
        ((start(), *SAID, stop("unheard_of"), STOP), errors.ProviderError),
        ((start(), {"type": "error", "error": {"type": "overloaded_error"}}), errors.ProviderError),
        ((start(), {"type": "error", "error": {"type": "rate_limit_error"}}), errors.ProviderRateLimited),
        ((start(), {"type": "error", "error": {"type": "new_error"}}), errors.ProviderError),
        ((start(), {"type": "error"}), errors.ProviderError),
        ((start(), piece(3, "thinking_delta", thinking="x")), errors.ProviderError),
        (({"kind": "message_start"},), errors.ProviderError),
    ],
)
def test_what_is_no_whole_answer_is_an_error(events: tuple[dict[str, Any], ...], kind: type[SpillwayError]) -> None:
    with pytest.raises(kind) as caught:
        read(*events)
    assert type(caught.value) is kind


def test_counts_are_of_the_whole_answer_and_the_cache_is_part_of_the_prompt() -> None:
    cached: dict[str, Any] = {"cache_read_input_tokens": 10, "cache_creation_input_tokens": 20}
    _, exchange = read(
        start(**cached), *SAID, stop(input_tokens=5, **cached, output_tokens_details={"thinking_tokens": 3}), STOP
    )
    assert exchange.usage == v1.Usage(
        prompt_tokens=35,
        cached_prompt_tokens=10,
        cache_write_prompt_tokens=20,
        completion_tokens=7,
        reasoning_tokens=3,
    )


def test_how_long_an_answer_is_is_unknown_until_it_ends() -> None:
    exchange = Exchange()
    reader(exchange).take([json.dumps(start()).encode()])
    assert exchange.usage == v1.Usage(prompt_tokens=5)


def test_thoughts_are_told_as_reasoning_and_their_signatures_with_the_end() -> None:
    whole, _ = read(
        start(),
        block(0, "thinking", thinking="", signature=""),
        piece(0, "thinking_delta", thinking="h"),
        piece(0, "thinking_delta", thinking="m"),
        piece(0, "signature_delta", signature="s1"),
        end(0),
        block(1, "text", text=""),
        piece(1, "text_delta", text="I look."),
        end(1),
        block(2, "redacted_thinking", data="xx"),
        end(2),
        block(3, "tool_use", id="t1", name="look", input={}),
        piece(3, "input_json_delta", partial_json='{"a"'),
        piece(3, "input_json_delta", partial_json=":1}"),
        end(3),
        block(4, "thinking", thinking="cut", signature=""),
        stop("tool_use"),
        STOP,
    )
    assert (whole.reasoning, whole.text) == ("hmcut", "I look.")
    assert [(call.id, call.name, call.arguments) for call in whole.tool_calls] == [("t1", "look", '{"a":1}')]
    assert whole.provider_state.wire == "anthropic"
    assert json.loads(whole.provider_state.state) == [[0, THOUGHT], [1, {"type": "redacted_thinking", "data": "xx"}]]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    whole, exchange = read(start(), block(0, "tool_use", id="t", name="n", input={}), end(0), stop("tool_use"), STOP)
    assert whole.tool_calls[0].arguments == "{}"
    assert exchange.said_bytes == 3


ODD: st.SearchStrategy[Any] = (
    st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2) | st.just({})
)


@given(st.data())
def test_whatever_else_comes_is_an_error_of_the_provider(data: st.DataObject) -> None:
    tool = block(1, "tool_use", id="t", name="n", input={})
    events: list[Any] = [start(), *SAID, tool, piece(1, "input_json_delta", partial_json="{}"), end(1), stop(), STOP]
    mangled = json.loads(json.dumps(data.draw(st.sampled_from(events))))
    place = mangled
    while isinstance(place, dict) and place:
        name = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[name], dict) or data.draw(st.booleans()):
            place[name] = data.draw(ODD)
            break
        place = place[name]
    answer = reader(Exchange())
    try:
        answer.take([json.dumps(event).encode() for event in [start(), mangled, *SAID, tool, end(1), stop(), STOP]])
        answer.check()
    except SpillwayError as error:
        assert error.elsewhere


def test_what_is_not_known_is_read_over() -> None:
    whole, _ = read(
        {"type": "ping"},
        start(),
        block(0, "server_tool_use", id="x", name="web_search", input={}),
        piece(0, "input_json_delta", partial_json='{"query":1}'),
        end(0),
        {"type": "new_event"},
        block(1, "text", text=""),
        piece(1, "citations_delta", citation={}),
        piece(1, "text_delta", text="hi"),
        stop(),
        STOP,
    )
    assert (whole.text, len(whole.tool_calls)) == ("hi", 0)


# Refusals and headers.


def used_up(remaining: str, reset: str) -> dict[str, str]:
    return {"anthropic-ratelimit-requests-remaining": remaining, "anthropic-ratelimit-requests-reset": reset}


def refused(status: int, kind: str, said: str = "said", headers: dict[str, str] | None = None, code: str = "") -> Any:
    body: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": said}}
    if code:
        body["error"]["details"] = {"error_code": code}
    return wire().refusal(status, body, headers or {}, now=0.0, request_id="req_1")


@pytest.mark.parametrize(
    ("status", "kind", "said", "error", "elsewhere"),
    [
        (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", errors.ContextLengthExceeded, True),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 9 + 1 > 8",
            errors.ContextLengthExceeded,
            True,
        ),
        (400, "invalid_request_error", "Your credit balance is too low to", errors.ProviderOutOfCredit, True),
        (400, "invalid_request_error", "You hit your specified API usage limits.", errors.ProviderOutOfCredit, True),
        (400, "invalid_request_error", "Output blocked by content filtering policy", errors.ContentFiltered, False),
        (400, "invalid_request_error", "messages: x", errors.RequestInvalid, False),
        (401, "authentication_error", "invalid x-api-key", errors.ProviderAuthFailed, True),
        (402, "billing_error", "", errors.ProviderOutOfCredit, True),
        (403, "permission_error", "", errors.ProviderAuthFailed, True),
        (404, "not_found_error", "model: x", errors.TargetModelMissing, True),
        (408, "invalid_request_error", "", errors.TargetTimeout, True),
        (413, "request_too_large", "", errors.RequestInvalid, False),
        (429, "rate_limit_error", "", errors.ProviderRateLimited, True),
        (500, "api_error", "", errors.ProviderError, True),
        (504, "timeout_error", "", errors.TargetTimeout, True),
        (529, "overloaded_error", "Overloaded", errors.ProviderError, True),
        (302, "", "", errors.ProviderError, True),
    ],
)  # fmt: skip
def test_every_refusal_has_a_reason(
    status: int, kind: str, said: str, error: type[SpillwayError], elsewhere: bool
) -> None:
    found = refused(status, kind, said)
    assert (type(found), found.elsewhere) == (error, elsewhere)
    assert found.metadata["provider_request_id"] == "req_1"


def test_a_code_says_more_than_a_type() -> None:
    spent = refused(429, "rate_limit_error", code="enforced_spend_limit_reached")
    assert isinstance(spent, errors.ProviderOutOfCredit)
    assert spent.metadata["code"] == "enforced_spend_limit_reached"
    assert isinstance(refused(400, "invalid_request_error", code="organization_on_hold"), errors.ProviderAuthFailed)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("temperature: Extra inputs are not permitted", "temperature"),
        ("`temperature` is deprecated for this model.", "temperature"),
        ("`temperature` and `top_p` cannot both be specified for this model.", "temperature"),
        ('"thinking.type.enabled" is not supported for this model.', "thinking.type.enabled"),
        ("messages.1.content.0: unexpected `tool_use_id`", "messages.1.content.0"),
        ("output_config.format.schema: For 'object' type", "output_config.format.schema"),
        ("my diagnosis: secret", None),
    ],
)
def test_the_parameter_is_passed_on_and_nothing_else_of_the_sentence(said: str, field: str | None) -> None:
    error = refused(400, "invalid_request_error", said)
    assert [violation.field for violation in error.fields] == ([f"claude:{field}"] if field else [])
    assert str(error) == "claude answered 400 invalid_request_error" + (f" ({field})" if field else "")


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7", "anthropic-ratelimit-requests-remaining": "0"}, 7.0),
        ({}, None),
        (used_up("1", "1970-01-01T00:00:09Z"), None),
        (used_up("0", "1970-01-01T00:00:09Z"), 9.0),
        (used_up("0", "soon"), None),
        (
            {
                "date": "Thu, 01 Jan 1970 00:01:00 GMT",
                **used_up("0", "1970-01-01T00:00:59Z"),
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "1970-01-01T00:01:30Z",
            },
            30.0,
        ),
    ],
)  # fmt: skip
def test_the_wait_is_what_is_told_else_until_what_is_used_up_is_there_again(
    headers: dict[str, str], wait: float | None
) -> None:
    assert refused(429, "rate_limit_error", headers=headers).retry_after_s == wait


def test_what_is_left_is_read_from_the_headers() -> None:
    headers = {}
    for at, what in enumerate(("requests", "tokens", "input-tokens", "output-tokens")):
        headers[f"anthropic-ratelimit-{what}-limit"] = "100"
        headers[f"anthropic-ratelimit-{what}-remaining"] = str(at)
        headers[f"anthropic-ratelimit-{what}-reset"] = f"1970-01-01T00:00:0{at}Z"
    found = wire().allowances(headers, now=0.0)
    assert [(one.name, one.remaining, one.limit, one.reset_s) for one in found] == [
        (REQUESTS, 0, 100, 0.0),
        (TOKENS, 1, 100, 1.0),
        ("input_tokens_per_minute", 2, 100, 2.0),
        ("output_tokens_per_minute", 3, 100, 3.0),
    ]
    assert wire().allowances({"anthropic-ratelimit-requests-remaining": "many"}, now=0.0) == ()
