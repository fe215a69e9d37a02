"""Each row of the error table, and the waits."""

from __future__ import annotations

from typing import Any

import pytest

from spillway import errors
from spillway.errors import SpillwayError
from spillway.openai.errors import duration_s, in_stream, understood, wait_s


def told(code: Any = None, type: Any = None, message: str = "said", param: Any = None) -> dict[str, Any]:
    return {"error": {"code": code, "type": type, "message": message, "param": param}}


AZURE = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "elsewhere"),
    [
        (400, told("context_length_exceeded", "invalid_request_error"), errors.ContextLengthExceeded, True),
        (400, told(400, "BadRequestError", "maximum context length is 8 tokens"), errors.ContextLengthExceeded, True),
        (400, told("content_policy_violation"), errors.ContentFiltered, False),
        (400, told("content_filter"), errors.ContentFiltered, False),
        (400, told(None, "invalid_request_error", param="stop"), errors.RequestInvalid, False),
        (400, told("invalid_json_schema"), errors.SchemaInvalid, False),
        (422, told(), errors.RequestInvalid, False),
        (401, told("invalid_api_key"), errors.ProviderAuthFailed, True),
        (403, told("unsupported_country_region_territory"), errors.ProviderAuthFailed, True),
        (402, told(), errors.ProviderOutOfCredit, True),
        (404, told("model_not_found"), errors.TargetModelMissing, True),
        (404, "not json", errors.TargetModelMissing, True),
        (408, told(), errors.TargetTimeout, True),
        (429, told("rate_limit_exceeded", "tokens"), errors.ProviderRateLimited, True),
        (429, told("insufficient_quota", "insufficient_quota"), errors.ProviderOutOfCredit, True),
        (429, {"error": {"code": 429, "message": "Provider returned error"}}, errors.ProviderRateLimited, True),
        (500, told(None, "server_error"), errors.ProviderError, True),
        (503, None, errors.ProviderError, True),
        (504, None, errors.TargetTimeout, True),
        (302, None, errors.ProviderError, True),
        (418, told(), errors.ProviderError, True),
        (500, told(["odd"], {"odd": 1}), errors.ProviderError, True),
        (529, told(None, "overloaded_error"), errors.ProviderError, True),
        (503, told("slow_down"), errors.ProviderError, True),
        (429, told("billing_hard_limit_reached"), errors.ProviderOutOfCredit, True),
        (403, told("model_not_found"), errors.TargetModelMissing, True),
        (404, told("DeploymentNotFound"), errors.TargetModelMissing, True),
        (400, told("invalid_image_format"), errors.RequestInvalid, False),
        (400, told("unsupported_parameter", param="temperature"), errors.ConstraintUnsupported, False),
        (400, told("unsupported_value", param="reasoning_effort"), errors.ConstraintUnsupported, False),
        (400, told("invalid_function_parameters", param="tools[0]"), errors.SchemaInvalid, False),
        (400, {"error": {"code": "400", "innererror": AZURE}}, errors.ContentFiltered, False),
        (400, {"error": {"code": "content_filter", "innererror": AZURE}}, errors.ContentFiltered, False),
    ],
)
def test_every_answer_that_is_none_has_a_reason(
    status: int, body: object, kind: type[SpillwayError], elsewhere: bool
) -> None:
    error = understood("openai", status, body, {}, now=0.0)
    assert type(error) is kind
    assert error.elsewhere is elsewhere
    assert error.metadata["http_status"] == str(status)


def test_the_providers_sentences_are_not_passed_on() -> None:
    body = told("invalid_api_key", message="Incorrect API key provided: sk-secret. Prompt was: my diagnosis")
    error = understood("openai", 401, body, {}, now=0.0, request_id="req_1")
    assert str(error) == "openai answered 401 invalid_api_key"
    assert error.metadata == {
        "provider": "openai",
        "http_status": "401",
        "code": "invalid_api_key",
        "provider_request_id": "req_1",
    }


def test_a_refused_parameter_is_named() -> None:
    error = understood("openai", 400, told("unknown_parameter", param="messages[0].x"), {}, now=0.0)
    assert error.fields[0].field == "openai:messages[0].x"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "16"}, 16.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 60.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-5"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8.64s"}, 8.64),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            360.0,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "100000"}, 60.0),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "100000"}, None),
        ({"x-ratelimit-remaining-requests": "12", "x-ratelimit-reset-requests": "8s"}, None),
        ({}, None),
    ],
)
def test_the_wait_is_what_the_provider_says(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_s(headers, now=40.0) == seconds


def test_durations_are_read_as_openai_writes_them() -> None:
    durations = {"6m0s": 360, "132ms": 0.132, "1h2m3s": 3723, "0s": 0, "2m": 120, "": None, "soon": None}
    assert {text: duration_s(text) for text in durations} == pytest.approx(durations)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Rate limit reached on tokens per min. Please try again in 6.57s. Visit https://...", 6.57),
        ("Please try again in 1m30.5s.", 90.5),
        ("Please try again in 120ms.", 0.12),
        ("exceeded token rate limit. Please retry after 26 seconds. Please contact Azure support", 26.0),
        ("Please retry shortly", None),
        ("try again in a while", None),
    ],
)
def test_a_wait_that_stands_in_words_alone_is_read_where_a_limit_was_reached(said: str, seconds: float | None) -> None:
    body = told("rate_limit_exceeded", "tokens", said)
    assert understood("openai", 429, body, {}, now=0.0).retry_after_s == seconds
    assert understood("openai", 429, body, {"retry-after": "2"}, now=0.0).retry_after_s == 2.0
    assert understood("openai", 500, told(message=said), {}, now=0.0).retry_after_s is None


def test_an_error_within_a_stream_is_understood_like_one_before_it() -> None:
    assert type(in_stream("openai", {"code": "server_error", "message": "x"})) is errors.ProviderError
    assert type(in_stream("openrouter", {"code": 429, "message": "x"})) is errors.ProviderRateLimited
    assert type(in_stream("openrouter", {"code": "502", "message": "x"})) is errors.ProviderError
    assert type(in_stream("vllm", "just words")) is errors.ProviderError
    assert type(in_stream("vllm", None)) is errors.ProviderError
    assert type(in_stream("openai", {"code": "image_too_large"})) is errors.RequestInvalid
    wrong = {"type": "invalid_request_error", "code": None, "message": "maximum context length is 8 tokens"}
    assert type(in_stream("openai", wrong)) is errors.ContextLengthExceeded
    assert type(in_stream("openai", {**wrong, "message": "x"})) is errors.RequestInvalid


def test_an_error_within_a_stream_may_tell_the_headers_it_would_have_had() -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "50.529s"}
    limited = {"code": "rate_limit_exceeded", "headers": headers}
    assert in_stream("openai", limited).retry_after_s == 50.529
    assert in_stream("openai", {**limited, "headers": "odd"}).retry_after_s is None


def test_openrouter_tells_its_headers_in_the_errors_metadata() -> None:
    headers = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1741305600000"}
    limited = {"code": 429, "message": "Rate limit exceeded", "metadata": {"headers": headers}}
    assert understood("openrouter", 429, {"error": limited}, {}, now=1741305580.0).retry_after_s == 20.0
    error = in_stream("openrouter", limited)  # nobody knows the time there
    assert (error.reason, error.retry_after_s) == ("PROVIDER_RATE_LIMITED", None)
