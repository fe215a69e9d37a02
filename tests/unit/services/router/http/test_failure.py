from __future__ import annotations

import pytest
from grpc import StatusCode

from services.router.http.failure import TABLE, body_of, headers_of, param_of, row_of, unknown, wrong
from spillway import errors
from spillway.errors import BY_REASON, FieldViolation, SpillwayError

STATUSES = {
    StatusCode.INVALID_ARGUMENT: {400},
    StatusCode.UNAUTHENTICATED: {401},
    StatusCode.PERMISSION_DENIED: {403},
    StatusCode.NOT_FOUND: {404},
    StatusCode.FAILED_PRECONDITION: {400},
    StatusCode.RESOURCE_EXHAUSTED: {429},
    StatusCode.UNAVAILABLE: {503},
    StatusCode.ABORTED: {502},
    StatusCode.DEADLINE_EXCEEDED: {504},
    StatusCode.ALREADY_EXISTS: {400},
    StatusCode.CANCELLED: {499},
    StatusCode.INTERNAL: {500},
}


def test_every_reason_of_the_contract_has_a_row_and_no_other_has() -> None:
    assert set(TABLE) == set(BY_REASON)


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_the_status_follows_from_the_code(reason: str) -> None:
    assert TABLE[reason].status in STATUSES[BY_REASON[reason].code]


@pytest.mark.parametrize("error", [SpillwayError("x"), errors.LimitReached("x"), errors.TargetUnavailable("x")])
def test_an_error_without_a_reason_of_its_own_is_an_internal_one(error: SpillwayError) -> None:
    assert row_of(error).status == 500


@pytest.mark.parametrize(
    "reason",
    ["REQUEST_INVALID", "KEY_UNKNOWN", "COST_CAP", "TENANT_QUOTA", "STREAM_INTERRUPTED", "EXPIRED", "INTERNAL"],
)
def test_what_would_fail_again_is_not_sent_again(reason: str) -> None:
    assert ("x-should-retry", "false") in headers_of(BY_REASON[reason]("no"))


def test_the_time_to_wait_is_told_in_whole_seconds_and_in_milliseconds() -> None:
    told = dict(headers_of(errors.QueueFull("full", retry_after_s=0.25)))
    assert (told["retry-after"], told["retry-after-ms"], told["x-should-retry"]) == ("1", "250", "true")


def test_an_error_has_openais_shape_and_names_the_parameter_as_openai_does() -> None:
    error = errors.RequestInvalid(
        "spec.sampling.top_p: must be above 0", fields=[FieldViolation("spec.sampling.top_p", "must be above 0")]
    )
    assert body_of(error) == {
        "error": {
            "message": "top_p: must be above 0",
            "type": "invalid_request_error",
            "param": "top_p",
            "code": "invalid_value",
        }
    }
    assert body_of(errors.TargetDown("gone"))["error"]["param"] is None


def test_an_unknown_parameter_has_a_code_of_its_own() -> None:
    assert body_of(unknown("beam_width"))["error"]["code"] == "unknown_parameter"
    assert body_of(wrong("stop", "is bad"))["error"]["message"] == "stop: is bad"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("spec.sampling.max_tokens", "max_tokens"),
        ("spec.stop.strings", "stop"),
        ("spec.stop.token_ids", "stop_token_ids"),
        ("spec.constraint.json_schema", "response_format"),
        ("spec.constraint", "response_format"),
        ("spec.chat.messages[3].parts[1].image", "messages[3]"),
        ("spec.chat.messages[3].role", "messages[3].role"),
        ("spec.chat.messages", "messages"),
        ("spec.text.text", "prompt"),
        ("spec.text.suffix", "suffix"),
        ("spec.tokens.ids", "prompt"),
        ("spec.tools", "tools"),
        ("spec.tools[2].name", "tools[2].function.name"),
        ("spec.tools[2].parameters_json_schema", "tools[2].function.parameters"),
        ("spec.tool_choice.name", "tool_choice"),
        ("spec.logprobs.top", "top_logprobs"),
        ("spec.reasoning_effort", "reasoning_effort"),
        ("spec.model", "model"),
        ("spec.extra.verbosity", "verbosity"),
        ("policy.category", "x-spillway-category"),
        ("policy.data_policy.residency", "x-spillway-residency"),
        ("policy.delivery.records", "x-spillway-records"),
        ("openai:max_tokens", "openai:max_tokens"),
    ],
)
def test_a_field_of_the_contract_is_told_as_the_parameter_that_set_it(field: str, param: str) -> None:
    assert param_of(field) == param
