"""What goes wrong at Gemini, as the contract names it. Google's sentences are read and never passed on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from spillway import errors
from spillway.errors import SpillwayError
from spillway.openai.errors import Row, Table, duration_s, row, understood

_ROWS: tuple[Row, ...] = (
    # A bad key comes as 400 INVALID_ARGUMENT: the reason in the details tells.
    row(errors.ProviderAuthFailed, "API_KEY_INVALID", "PERMISSION_DENIED", "UNAUTHENTICATED", 401, 403),
    # Where there is no free tier, and none is paid for.
    row(errors.ProviderOutOfCredit, "FAILED_PRECONDITION", 402),
    row(errors.ProviderRateLimited, "RESOURCE_EXHAUSTED", 429),
    row(errors.TargetModelMissing, "NOT_FOUND", 404),
    row(errors.TargetTimeout, "DEADLINE_EXCEEDED", 408, 504),
    row(errors.ProviderError, "UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", 499, 500, 502, 503),
    row(errors.RequestInvalid, "INVALID_ARGUMENT", "OUT_OF_RANGE", "UNIMPLEMENTED", 400, 413, 422),
)
GEMINI = Table(_ROWS, otherwise=errors.ProviderError)
"""By the reason of `google.rpc.ErrorInfo` and the canonical status, then by HTTP status."""

_SAID = (
    (400, re.compile(r"exceeds the maximum number of tokens"), errors.ContextLengthExceeded),
    (403, re.compile(r"access the File|CachedContent not found"), errors.RequestInvalid),
    (429, re.compile(r"credits are depleted|limit: 0(?![\d.])"), errors.ProviderOutOfCredit),
)
"""What only Google's words tell apart: a prompt too long from other bad requests; a file or a cache that the request
names from a key that may nothing; money spent, or a quota of nothing, from one that comes back."""

_PATHS = (
    ("ErrorInfo", "reason"),
    ("BadRequest", "fieldViolations", "field"),
    ("QuotaFailure", "violations", "quotaId"),
    ("RetryInfo", "retryDelay"),
)


def refusal_of(
    provider: str, status: int, body: object, headers: Mapping[str, str], *, now: float, request_id: str
) -> SpillwayError:
    """Return the error that an HTTP `status` with `body` means. `now`: seconds since the epoch.

    A spent quota is PROVIDER_RATE_LIMITED, that of a day too: it comes back by itself, and RetryInfo says when.
    """
    told = _error(body)
    details = list(_details(told))
    reason, field, quota, wait = (_first(details, *path) for path in _PATHS)
    if (seconds := duration_s(str(wait))) is not None:
        headers = {**headers, "retry-after": str(seconds)}
    said = str(told.get("message") or "")
    error = next((error for of, words, error in _SAID if of == status and words.search(said)), None)
    if error is errors.ProviderOutOfCredit:
        headers = {}  # no waiting mends it
    found = understood(
        provider,
        status,
        {"error": {"code": reason, "type": told.get("status"), "param": field}},
        headers,
        now=now,
        request_id=request_id,
        table=GEMINI if error is None else Table((), otherwise=error),
    )
    if isinstance(quota, str) and quota.replace("-", "").isalnum():
        found.metadata["quota"] = quota[:100]
    return found


def _error(body: object) -> Mapping[str, Any]:
    """The error object of `body`, which is a list of one where a stream was asked for without `alt=sse`."""
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error") if isinstance(body, Mapping) else None
    return error if isinstance(error, Mapping) else {}


def _details(error: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    told = error.get("details")
    for detail in told if isinstance(told, list) else ():
        if isinstance(detail, Mapping):
            yield detail


def _first(details: list[Mapping[str, Any]], kind: str, name: str, within: str = "") -> object:
    """The first `name` of the first detail of `kind`; with `within`, of the first of its list."""
    for detail in details:
        if str(detail.get("@type", "")).endswith(f"google.rpc.{kind}"):
            told = detail.get(name)
            if not within:
                return told
            if isinstance(told, list) and told and isinstance(told[0], Mapping):
                return told[0].get(within)
    return None
