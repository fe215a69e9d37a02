"""What goes wrong at Anthropic, as the contract names it, and what its headers say of its limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from services.cloud_proxy.allowance import Allowance
from services.cloud_proxy.limits import INPUT_TOKENS, OUTPUT_TOKENS, REQUESTS, TOKENS
from spillway import errors
from spillway.errors import SpillwayError
from spillway.openai.errors import LONGEST_WAIT_S, Table, row, understood

TABLE = Table(
    (
        row(
            errors.ProviderOutOfCredit,
            *("billing_error", "contract_spend_limit_reached", "enforced_spend_limit_reached"),
            *("linked_organization_spend_limit_reached", "linked_organization_billing_unavailable", 402),
            words=r"credit balance is too low|specified API usage limits",
        ),
        row(errors.ContextLengthExceeded, words=r"prompt is too long|exceed context limit"),
        row(errors.ContentFiltered, words=r"content filtering policy"),
        row(errors.ProviderAuthFailed, "authentication_error", "permission_error", "organization_on_hold", 401, 403),
        row(errors.TargetModelMissing, "not_found_error", 404),
        row(errors.ProviderRateLimited, "rate_limit_error", 429),
        row(errors.TargetTimeout, "timeout_error", 408, 504),
        row(errors.ProviderError, "overloaded_error", "api_error", 500, 502, 503, 529),
        row(errors.RequestInvalid, 400, 413, 422),
    ),
    otherwise=errors.ProviderError,
)
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Type of an error -> the HTTP status it has outside a stream."""
LIMITS = {
    "requests": REQUESTS,
    "tokens": TOKENS,
    "input-tokens": INPUT_TOKENS,
    "output-tokens": OUTPUT_TOKENS,
}
"""What `anthropic-ratelimit-NAME-*` counts -> which limit of ours that is."""
_PARAMETER = re.compile(
    r"[`\"]?((?:max_tokens|messages|metadata|model|output_config|stop_sequences|system|temperature|thinking|tool_choice|tools"
    r"|top_k|top_p)(?:\.[A-Za-z0-9_]+)*)[`\"]?(?:: | (?:and|is|may|must|should)\b)"
)
"""The parameter that a refusal begins with: the one word of its sentence that is passed on."""


def refused(
    provider: str, status: int, body: object, headers: Mapping[str, str], *, now: float, request_id: str
) -> SpillwayError:
    """Return the error that an HTTP `status` with `body` and `headers` means. `now`: seconds since the epoch."""
    told = _told(body.get("error") if isinstance(body, Mapping) else None)
    error = understood(provider, status, told, headers, now=now, request_id=request_id, table=TABLE)
    if error.retry_after_s is None:
        error.retry_after_s = reset_s(headers, now=now)
    return error


def in_stream(provider: str, error: object, *, request_id: str) -> SpillwayError:
    """Return what an `error` event within a 200 stream means."""
    kind = error.get("type") if isinstance(error, Mapping) else None
    status = STATUSES.get(str(kind), 500)
    return understood(provider, status, _told(error), {}, now=0.0, request_id=request_id, table=TABLE)


def reset_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return in how many seconds the limits of which nothing is left are there again, None if none is used up."""
    waits = [found.reset_s for found in allowances(headers, now=now) if found.remaining == 0]
    known = [wait for wait in waits if wait is not None]
    return max(known) if known else None


def allowances(headers: Mapping[str, str], *, now: float) -> Iterator[Allowance]:
    """Yield what is left of each limit. Times are of the provider's clock: its `date`, else `now`."""
    since = _date(headers.get("date"), now)
    for what, name in LIMITS.items():
        limit, remaining, reset = (headers.get(f"anthropic-ratelimit-{what}-{of}", "") for of in _TOLD)
        if remaining.isdecimal():
            yield Allowance(name, int(remaining), int(limit) if limit.isdecimal() else None, _after(reset, since))


_TOLD = ("limit", "remaining", "reset")


def _told(error: object) -> object:
    """The error in the shape that the table is read by: with the code of its cause, and the parameter it is about."""
    if not isinstance(error, Mapping):
        return None
    details: Any = error.get("details")
    found = _PARAMETER.match(str(error.get("message") or ""))
    return {
        "error": {
            "type": error.get("type"),
            "code": details.get("error_code") if isinstance(details, Mapping) else None,
            "message": error.get("message"),
            "param": found[1] if found else None,
        }
    }


def _date(text: str | None, now: float) -> float:
    try:
        return now if text is None else parsedate_to_datetime(text).timestamp()
    except ValueError:
        return now


def _after(text: str, since: float) -> float | None:
    """Seconds from `since` to an RFC 3339 time, never less than none."""
    try:
        return min(max(0.0, datetime.fromisoformat(text).timestamp() - since), LONGEST_WAIT_S)
    except (ValueError, OverflowError):
        return None
