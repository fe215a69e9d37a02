"""What goes wrong at a provider of OpenAI's wire format, as the contract names it.

The provider's own sentences are read and never passed on: they may quote the prompt, the answer or the key. What passes
is its code, the parameter it names, the HTTP status and its request id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import inf
from typing import Any

from spillway import errors
from spillway.errors import FieldViolation, SpillwayError

LONGEST_WAIT_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Row:
    """An error, and by which codes or types, else by which words of a 400, else by which HTTP status, it is known."""

    error: type[SpillwayError]
    codes: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    words: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Looked up by code and type first, then by words, then by status.

    Anything else is `otherwise`, as is an answer broken off.
    """

    rows: tuple[Row, ...]
    otherwise: type[SpillwayError]


def row(error: type[SpillwayError], *known_by: str | int, words: str | None = None) -> Row:
    return Row(
        error,
        frozenset(known for known in known_by if isinstance(known, str)),
        frozenset(known for known in known_by if isinstance(known, int)),
        None if words is None else re.compile(words, re.IGNORECASE),
    )


_IMAGES = (
    "invalid_image",
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "invalid_image_mode",
    "image_too_large",
    "image_too_small",
    "image_parse_error",
    "image_file_too_large",
    "image_file_not_found",
    "empty_image_file",
    "unsupported_image_media_type",
    "failed_to_download_image",
)
_FILTERED = (
    "content_policy_violation",
    "content_filter",
    "ResponsibleAIPolicyViolation",  # Azure's, within `innererror`
    "moderation_blocked",
    "invalid_prompt",
    "image_content_policy_violation",
    "bio_policy",
    "misalignment_policy_violation",
)
_PROVIDER_ROWS = (
    row(errors.ContextLengthExceeded, "context_length_exceeded", "string_above_max_length"),
    row(errors.ContentFiltered, *_FILTERED),
    row(errors.ProviderOutOfCredit, "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", 402),
    row(
        errors.ProviderAuthFailed,
        "invalid_api_key",
        "account_deactivated",
        "authentication_error",
        "unsupported_country_region_territory",
        "data_residency_mismatch",
        401,
        403,
    ),
    row(errors.TargetModelMissing, "model_not_found", "DeploymentNotFound", 404),
    row(errors.ProviderRateLimited, "rate_limit_exceeded", "tokens", "requests", 429),
    row(errors.TargetTimeout, "vector_store_timeout", 408, 504),
    row(errors.SchemaInvalid, "invalid_json_schema", "invalid_function_parameters"),
    row(errors.ConstraintUnsupported, "unsupported_parameter", "unsupported_value"),
    row(errors.ProviderError, 500, 502, 503, 529),
    row(errors.RequestInvalid, *_IMAGES, 400, 413, 422),
)
PROVIDERS = Table(_PROVIDER_ROWS, otherwise=errors.ProviderError)
"""What is said of a provider in the cloud."""

_TOO_LONG = re.compile(r"context (?:length|size|window)|prompt is too long", re.IGNORECASE)
_WAIT = re.compile(r"(?:try again in|retry after) ([0-9hms.]*[0-9hms])(?: (s)econds?)?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_.\[\]/-]{1,80}")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def understood(
    provider: str,
    status: int,
    body: object,
    headers: Mapping[str, str],
    *,
    now: float,
    request_id: str = "",
    table: Table = PROVIDERS,
) -> SpillwayError:
    """Return the error that an HTTP `status` with `body` and `headers` means. `now`: seconds since the epoch."""
    told = _told(body)
    code, kind, param = (_name(told.get(name)) for name in ("code", "type", "param"))
    inner, message = told.get("innererror"), str(told.get("message") or "")
    names = {code, kind, _name(inner.get("code")) if isinstance(inner, Mapping) else ""}
    error = _found(table, names, status, message)
    metadata = {"provider": provider, "http_status": str(status)}
    metadata.update(
        {name: value for name, value in (("code", code or kind), ("provider_request_id", request_id)) if value}
    )
    said = f"{provider} answered {status}" + (f" {code or kind}" if code or kind else "")
    fields = []
    if issubclass(error, errors.RequestInvalid) and param:
        fields = [FieldViolation(f"{provider}:{param}", code or kind or "refused by the provider")]
        said += f" ({param})"
    wait = wait_s({**_headers_within(told), **headers}, now=now)
    if wait is None and issubclass(error, errors.ProviderRateLimited):
        wait = _wait_in_words(message)
    return error(said, fields=fields, retry_after_s=wait, resource=provider, metadata=metadata)


def in_stream(provider: str, told: object, *, request_id: str = "", table: Table = PROVIDERS) -> SpillwayError:
    """Return what an error object within a 200 stream means. It may tell the headers that it would have had."""
    told = told if isinstance(told, Mapping) else {"message": told}
    code = _name(told.get("code"))
    status = 400 if told.get("type") == "invalid_request_error" else 500
    if code.isdecimal() and 400 <= int(code) < 600:
        status = int(code)
    return understood(provider, status, {"error": told}, {}, now=inf, request_id=request_id, table=table)


def wait_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return for how many seconds the provider asks not to be called, or None if it does not say.

    `now`: seconds since the epoch; infinite where nobody knows it, and then no time of day is a wait.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return min(milliseconds / 1000, LONGEST_WAIT_S)
    after = headers.get("retry-after")
    if after is not None:
        if (seconds := _number(after)) is not None:
            return min(seconds, LONGEST_WAIT_S)
        try:
            date_s = parsedate_to_datetime(after).timestamp()
        except (ValueError, TypeError):
            date_s = None
        if date_s is not None and now < inf:
            return min(max(0.0, date_s - now), LONGEST_WAIT_S)
    reset_ms = _number(headers.get("x-ratelimit-reset"))  # OpenRouter's: since the epoch
    if reset_ms is not None and headers.get("x-ratelimit-remaining") == "0" and now < inf:
        return min(max(0.0, reset_ms / 1000 - now), LONGEST_WAIT_S)
    waits = [
        duration_s(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}") == "0"
    ]
    known = [wait for wait in waits if wait is not None]
    return min(max(known), LONGEST_WAIT_S) if known else None


def duration_s(text: str) -> float | None:
    """Return the seconds of a duration as OpenAI writes them: `6m0s`, `8.64s`, `132ms`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _headers_within(told: Mapping[str, Any]) -> dict[str, str]:
    """The headers that an error tells itself: the Responses API's within a stream, OpenRouter's in its metadata."""
    metadata = told.get("metadata")
    headers = told.get("headers") or (metadata.get("headers") if isinstance(metadata, Mapping) else None)
    return {str(name).lower(): str(value) for name, value in headers.items()} if isinstance(headers, Mapping) else {}


def _wait_in_words(message: str) -> float | None:
    """The seconds of "Please try again in 6.57s" (OpenAI) or "retry after 26 seconds" (Azure)."""
    found = _WAIT.search(message)
    wait = duration_s(found[1] + (found[2] or "")) if found else None
    return None if wait is None else min(wait, LONGEST_WAIT_S)


def _found(table: Table, names: set[str], status: int, message: str) -> type[SpillwayError]:
    for row in table.rows:
        if row.codes & names:
            return row.error
    if status in (400, 413, 422):
        for row in table.rows:
            if row.words is not None and row.words.search(message):
                return row.error
        if _TOO_LONG.search(message):
            return errors.ContextLengthExceeded  # compatible servers say it in words alone
    return next((row.error for row in table.rows if status in row.statuses), table.otherwise)


def _told(body: object) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        return {}
    error = body.get("error")
    if isinstance(error, str):
        return {**body, "message": error}
    return error if isinstance(error, Mapping) else body


def _name(value: object) -> str:
    """`value` if it is a name and not a sentence."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    text = str(value)
    return text if _NAME.fullmatch(text) else ""


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None
