"""What goes wrong at a provider of OpenAI's wire format, as the contract names it.

The provider's own sentences are read and never passed on: they may quote the prompt, the answer or the key. What passes
is its code, the parameter it names, the HTTP status and its request id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
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


_PROVIDER_ROWS = (
    row(errors.ContextLengthExceeded, "context_length_exceeded", "string_above_max_length"),
    row(errors.ContentFiltered, "content_policy_violation", "content_filter", "moderation_blocked", "invalid_prompt"),
    row(errors.ProviderOutOfCredit, "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", 402),
    row(errors.ProviderAuthFailed, "invalid_api_key", "account_deactivated", "authentication_error", 401, 403),
    row(errors.TargetModelMissing, "model_not_found", 404),
    row(errors.ProviderRateLimited, "rate_limit_exceeded", "tokens", "requests", 429),
    row(errors.TargetTimeout, 408, 504),
    row(errors.SchemaInvalid, "invalid_json_schema"),
    row(errors.ProviderError, 500, 502, 503, 529),
    row(errors.RequestInvalid, 400, 413, 422),
)
PROVIDERS = Table(_PROVIDER_ROWS, otherwise=errors.ProviderError)
"""What is said of a provider in the cloud."""

_TOO_LONG = re.compile(r"context (?:length|size|window)|prompt is too long", re.IGNORECASE)
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
    error = _found(table, {code, kind}, status, str(told.get("message") or ""))
    metadata = {"provider": provider, "http_status": str(status)}
    metadata.update(
        {name: value for name, value in (("code", code or kind), ("provider_request_id", request_id)) if value}
    )
    said = f"{provider} answered {status}" + (f" {code or kind}" if code or kind else "")
    fields = []
    if issubclass(error, errors.RequestInvalid) and param:
        fields = [FieldViolation(f"{provider}:{param}", code or kind or "refused by the provider")]
        said += f" ({param})"
    return error(said, fields=fields, retry_after_s=wait_s(headers, now=now), resource=provider, metadata=metadata)


def in_stream(provider: str, told: object, *, request_id: str = "", table: Table = PROVIDERS) -> SpillwayError:
    """Return what an error object within a 200 stream means."""
    code = told.get("code") if isinstance(told, Mapping) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return understood(provider, status, {"error": told}, {}, now=0.0, request_id=request_id, table=table)


def wait_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return for how many seconds the provider asks not to be called, or None if it does not say."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return min(milliseconds / 1000, LONGEST_WAIT_S)
    after = headers.get("retry-after")
    if after is not None:
        if (seconds := _number(after)) is not None:
            return min(seconds, LONGEST_WAIT_S)
        try:
            return min(max(0.0, parsedate_to_datetime(after).timestamp() - now), LONGEST_WAIT_S)
        except (ValueError, TypeError):
            pass
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
