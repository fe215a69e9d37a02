"""What goes wrong at a runtime that runs by itself, as the contract names it."""

from __future__ import annotations

import aiohttp

from spillway import errors
from spillway.errors import DeadlineExceeded, SpillwayError, TargetBusy, TargetDown
from spillway.openai.errors import Table, row
from spillway.openai.sse import EventTooLong

NOT_REACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorDNSError)
FOREIGN = (aiohttp.ClientError, TimeoutError, OSError, EventTooLong)
BUSY_S = 1.0
"""When to come back to a runtime that is busy, or loads its model, and does not say when."""

_ROWS = (
    row(errors.ContextLengthExceeded, "context_length_exceeded", "exceed_context_size_error"),
    row(errors.TargetModelMissing, "model_not_found", "not_found_error", "NotFoundError", 404),
    row(errors.ProviderAuthFailed, "authentication_error", "invalid_api_key", 401, 403),
    row(errors.TargetBusy, "unavailable_error", 429, 503),
    row(errors.TargetTimeout, 408, 504),
    row(errors.TargetDown, 500, 502),
    row(errors.RequestInvalid, 400, 413, 422),
)
RUNTIMES = Table(_ROWS, otherwise=errors.TargetDown)
"""What is said of a runtime on the site. A 404 for a model it had is its own trouble, not the caller's mistake."""


def patient(error: SpillwayError) -> SpillwayError:
    """Return `error`; one that only asks for patience says when to come back."""
    if isinstance(error, TargetBusy) and error.retry_after_s is None:
        error.retry_after_s = BUSY_S
    return error


def meant(name: str, error: BaseException) -> SpillwayError:
    """What a foreign error means: by its type alone, its text stays here."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TargetDown(f"{name} could not be reached in time", resource=name)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return TargetDown(f"{name}: its address cannot be resolved", resource=name)
    if isinstance(error, aiohttp.ClientConnectorError):
        return TargetDown(f"{name} cannot be reached ({type(error.os_error).__name__})", resource=name)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(f"{name} had not answered when the deadline passed")
    if isinstance(error, EventTooLong | aiohttp.ClientResponseError):
        return TargetDown(f"{name} does not speak its wire format ({type(error).__name__})", resource=name)
    return TargetDown(f"{name}: the connection failed ({type(error).__name__})", resource=name)
