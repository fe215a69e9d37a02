"""Faults of a provider that speaks HTTP, beside those that any target can have."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from spillway import errors
from spillway.testing.faults import Cut, Fault, Refuse, Silence, SlowFirst, Stall


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with an HTTP error in the provider's shape."""

    status: int
    code: str | None = None
    type: str = "invalid_request_error"
    message: str = "Scripted by the simulator."
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """Answer with a web page, as what stands before a server does."""

    status: int = 502


@dataclass(frozen=True, slots=True)
class Reset:
    """Take the request and drop the connection before any header."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Send `after` tokens, then a chunk that is not JSON."""

    after: int = 1


@dataclass(frozen=True, slots=True)
class MissingDone:
    """Send everything but `[DONE]`, then end the body in good order."""


@dataclass(frozen=True, slots=True)
class MissingFinish:
    """Send `after` tokens and `[DONE]`, without a finish reason."""

    after: int = 1


@dataclass(frozen=True, slots=True)
class ErrorInStream:
    """Send `after` tokens of a 200 stream, then an error object."""

    after: int = 1
    code: str | int | None = "server_error"
    type: str = "server_error"
    message: str = "The server had an error while processing your request."


@dataclass(frozen=True, slots=True)
class Failed:
    """Responses API: say `after` tokens, then that the response has failed."""

    after: int = 0
    code: str = "server_error"
    message: str = "The server had an error while processing your request."


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model declines, in the wire's own `refusal` field."""

    text: str = "I'm sorry, I can't help with that."


@dataclass(frozen=True, slots=True)
class Filtered:
    """Send `after` tokens, then the finish reason `content_filter`."""

    after: int = 0


HttpFault = (
    Fault
    | Status
    | Page
    | Reset
    | Malformed
    | MissingDone
    | MissingFinish
    | ErrorInStream
    | Failed
    | Refusal
    | Filtered
)
BREAKING = (Cut, Stall, Malformed, MissingFinish, ErrorInStream, Failed, Filtered)
"""Faults that come after a number of tokens."""


class Faults:
    """The faults still to come; a request takes the next one, and `always` when they are over."""

    def __init__(self, *faults: HttpFault | None, always: HttpFault | None = None) -> None:
        self._coming = deque(faults)
        self.always = always

    def next(self) -> HttpFault | None:
        return self._coming.popleft() if self._coming else self.always

    def __repr__(self) -> str:
        return f"<Faults {len(self._coming)} to come, then {self.always}>"


def rate_limited(retry_after_s: float | None = None) -> Status:
    """A 429 of the provider's own limits, with or without Retry-After (seconds)."""
    headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:g}"}
    return Status(429, "rate_limit_exceeded", "requests", "Rate limit reached for requests.", headers=headers)


def out_of_credit() -> Status:
    """The 429 that no waiting mends."""
    return Status(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota.")


def context_length_exceeded(limit: int = 8192, asked: int = 9000) -> Status:
    """The 400 for a prompt that does not fit."""
    said = f"This model's maximum context length is {limit} tokens. However, your messages resulted in {asked} tokens."
    return Status(400, "context_length_exceeded", message=said, param="messages")


def content_policy_violation() -> Status:
    """The 400 for a prompt that the provider's safety system refuses."""
    return Status(400, "content_policy_violation", message="Your request was rejected by our safety system.")


def overloaded(retry_after_s: float | None = None) -> Status:
    """The 503 of a provider under load."""
    headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:g}"}
    return Status(503, None, "server_error", "The engine is currently overloaded.", headers=headers)


def status_of(refuse: Refuse) -> Status:
    """What a refusal in the mesh's own words is on this wire."""
    error = refuse.error
    if isinstance(error, errors.ProviderOutOfCredit):
        return out_of_credit()
    if isinstance(error, errors.LimitReached):
        return rate_limited(error.retry_after_s)
    if isinstance(error, errors.ContextLengthExceeded):
        return context_length_exceeded()
    if isinstance(error, errors.ContentFiltered):
        return content_policy_violation()
    if isinstance(error, errors.RequestInvalid):
        return Status(400)
    return overloaded(error.retry_after_s)


__all__ = [
    "BREAKING",
    "Cut",
    "ErrorInStream",
    "Failed",
    "Faults",
    "Filtered",
    "HttpFault",
    "Malformed",
    "MissingDone",
    "MissingFinish",
    "Page",
    "Refusal",
    "Refuse",
    "Reset",
    "Silence",
    "SlowFirst",
    "Stall",
    "Status",
    "content_policy_violation",
    "context_length_exceeded",
    "out_of_credit",
    "overloaded",
    "rate_limited",
    "status_of",
]
