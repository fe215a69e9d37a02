"""Our errors as OpenAI's clients know them: an HTTP status, and a body with message, type, param and code."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from spillway.errors import (
    AllTargetsFailed,
    FieldViolation,
    Internal,
    ProviderRateLimited,
    RequestInvalid,
    SpillwayError,
)
from spillway.rpc.status import MAX_MESSAGE_BYTES, MAX_RETRY_AFTER_S, cut


class Row(NamedTuple):
    """How one reason is told. `again`: the same call may be sent again soon."""

    status: int
    type: str
    code: str
    again: bool = False


_REQUEST, _LIMIT, _QUOTA, _SERVER = "invalid_request_error", "rate_limit_error", "insufficient_quota", "server_error"

TABLE: Mapping[str, Row] = {
    "REQUEST_INVALID": Row(400, _REQUEST, "invalid_value"),
    "CONTEXT_LENGTH_EXCEEDED": Row(400, _REQUEST, "context_length_exceeded"),
    "CONSTRAINT_UNSUPPORTED": Row(400, _REQUEST, "unsupported_parameter"),
    "SCHEMA_INVALID": Row(400, _REQUEST, "invalid_json_schema"),
    "KEY_UNKNOWN": Row(401, _REQUEST, "invalid_api_key"),
    "SCOPE_MISSING": Row(403, _REQUEST, "insufficient_permissions"),
    "POLICY_BLOCKED": Row(403, _REQUEST, "policy_blocked"),
    "MODEL_UNKNOWN": Row(404, _REQUEST, "model_not_found"),
    "ADAPTER_UNKNOWN": Row(404, _REQUEST, "adapter_not_found"),
    # Not 409, which every client would send again.
    "REQUEST_ID_IN_USE": Row(400, _REQUEST, "request_id_in_use"),
    "REQUEST_ID_REUSED": Row(400, _REQUEST, "request_id_reused"),
    "TARGET_UNKNOWN": Row(404, _REQUEST, "target_not_found"),
    "NO_COMPLIANT_TARGET": Row(400, _REQUEST, "no_compliant_target"),
    "CONTENT_FILTERED": Row(400, _REQUEST, "content_filter"),
    "TENANT_QUOTA": Row(429, _QUOTA, "insufficient_quota"),
    "COST_CAP": Row(429, _QUOTA, "cost_cap"),
    "PROVIDER_OUT_OF_CREDIT": Row(429, _QUOTA, "provider_out_of_credit"),
    "PROVIDER_RATE_LIMITED": Row(429, _LIMIT, "rate_limit_exceeded", again=True),
    "QUEUE_FULL": Row(429, _LIMIT, "queue_full", again=True),
    "TARGET_DOWN": Row(503, _SERVER, "target_down", again=True),
    "TARGET_BUSY": Row(503, _SERVER, "target_busy", again=True),
    "TARGET_TIMEOUT": Row(503, _SERVER, "target_timeout", again=True),
    "TARGET_DRAINING": Row(503, _SERVER, "target_draining", again=True),
    "TARGET_MODEL_MISSING": Row(503, _SERVER, "target_model_missing"),
    "PROVIDER_AUTH_FAILED": Row(503, _SERVER, "provider_auth_failed"),
    "PROVIDER_ERROR": Row(503, _SERVER, "provider_error", again=True),
    "BREAKER_OPEN": Row(503, _SERVER, "breaker_open", again=True),
    "VALIDATOR_UNAVAILABLE": Row(503, _SERVER, "validator_unavailable", again=True),
    "ALL_TARGETS_FAILED": Row(503, _SERVER, "all_targets_failed", again=True),
    # The answer came and was no good. 409, which gRPC's ABORTED usually becomes, would be sent again by every client.
    "STREAM_INTERRUPTED": Row(502, _SERVER, "stream_interrupted"),
    "OUTPUT_INVALID": Row(502, _SERVER, "output_invalid"),
    "EXPIRED": Row(504, _SERVER, "deadline_exceeded"),
    "DEADLINE_UNMEETABLE": Row(504, _SERVER, "deadline_unmeetable"),
    "CANCELLED": Row(499, _SERVER, "cancelled"),
    "INTERNAL": Row(500, _SERVER, "internal_error"),
}
"""Reason of the contract's error table -> how it is told."""


class HttpError(RequestInvalid):
    """A request that is wrong in a way only HTTP has."""

    row = Row(400, _REQUEST, "invalid_value")


class BodyTooLarge(HttpError):
    row = Row(413, _REQUEST, "request_too_large")


class PathUnknown(HttpError):
    row = Row(404, _REQUEST, "unknown_url")


class MethodNotAllowed(HttpError):
    row = Row(405, _REQUEST, "method_not_allowed")


class ParameterUnknown(HttpError):
    row = Row(400, _REQUEST, "unknown_parameter")


def wrong(param: str, description: str) -> RequestInvalid:
    """The error of a request whose parameter `param`, by OpenAI's name, cannot be taken."""
    return RequestInvalid(f"{param}: {description}", fields=[FieldViolation(param, description)])


def unknown(param: str) -> ParameterUnknown:
    """The error of a parameter that is not known here: it is refused, since ignoring it would change the answer."""
    return ParameterUnknown(f"{param} is not known here", fields=[FieldViolation(param, "is not known here")])


_ATTEMPT = re.compile(r": ([A-Z_]+) after ")
"""The reason of an attempt, as `journal.told` lists it."""


def row_of(error: SpillwayError) -> Row:
    """How `error` is told. Where every target was at a limit, so is the whole."""
    if isinstance(error, HttpError):
        return error.row
    if isinstance(error, AllTargetsFailed):
        rows = [TABLE.get(reason) for told in error.metadata.values() for reason in _ATTEMPT.findall(told)]
        if rows and all(row is not None and row.status == 429 for row in rows):
            return TABLE[ProviderRateLimited.reason]
    return TABLE.get(error.reason, TABLE[Internal.reason])


def body_of(error: SpillwayError) -> dict[str, Any]:
    """The body of a response that tells `error`, and the data of an event that ends a stream with it."""
    row = row_of(error)
    fields = [FieldViolation(param_of(field.field), field.description) for field in error.fields]
    message = error.message
    if fields and isinstance(error, RequestInvalid):
        message = "; ".join(f"{field.field}: {field.description}" for field in fields[:3])
    return {
        "error": {
            "message": cut(message, MAX_MESSAGE_BYTES),
            "type": row.type,
            "param": fields[0].field if fields else None,
            "code": row.code,
        }
    }


def headers_of(error: SpillwayError) -> list[tuple[str, str]]:
    """The headers of a response that tells `error`: when to come back, and whether a client may try by itself."""
    found = [("x-should-retry", "true" if row_of(error).again else "false")]
    if error.retry_after_s is not None:
        seconds = min(max(error.retry_after_s, 0.0), MAX_RETRY_AFTER_S)
        found += [("retry-after", str(math.ceil(seconds))), ("retry-after-ms", str(round(seconds * 1000)))]
    if isinstance(error, BodyTooLarge):
        found.append(("connection", "close"))  # what is left of the body is not worth reading
    return found


_PARAMS = (
    (r"spec\.sampling\.(\w+)", r"\1"),
    (r"spec\.stop\.token_ids", "stop_token_ids"),
    (r"spec\.stop\b.*", "stop"),
    (r"spec\.constraint\b.*", "response_format"),
    (r"spec\.chat\.messages(.*?)(?:\.parts.*)?", r"messages\1"),
    (r"spec\.text\.suffix", "suffix"),
    (r"spec\.(?:text|tokens)\b.*", "prompt"),
    (r"spec\.input", "messages"),
    (r"spec\.inputs(\[\d+\])?(?:\..*)?", r"input\1"),
    (r"spec\.tools(\[\d+\])?\.(name|description)", r"tools\1.function.\2"),
    (r"spec\.tools(\[\d+\])?\..*", r"tools\1.function.parameters"),
    (r"spec\.tool_choice\b.*", "tool_choice"),
    (r"spec\.logprobs\b.*", "top_logprobs"),
    (r"spec\.(?:extra\.)?(\w+).*", r"\1"),
    (r"policy\.(?:data_policy|delivery)\.(\w+)", r"x-spillway-\1"),
    (r"policy\.(\w+).*", r"x-spillway-\1"),
)
_COMPILED = tuple((re.compile(pattern), told) for pattern, told in _PARAMS)


def param_of(field: str) -> str:
    """The parameter or header that set `field` of the contract; anything else as it is."""
    for pattern, told in _COMPILED:
        if found := pattern.fullmatch(field):
            param = found.expand(told)
            return param.replace("_", "-") if param.startswith("x-") else param
    return field
