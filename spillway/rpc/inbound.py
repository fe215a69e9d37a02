"""What comes in: how a call begins and what its end means, whichever way it came."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from opentelemetry.trace import SpanKind

from spillway.deadline import Clock, Deadline
from spillway.errors import Cancelled, DeadlineExceeded, Internal, SpillwayError
from spillway.logs import get_logger
from spillway.rpc.call import Call, new_id
from spillway.rpc.methods import ENDLESS
from spillway.settings import ServerSettings
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, extract

log = get_logger(__name__)

CLOCKS_DIFFER_S = 0.005
"""A cancel this close to the deadline is the deadline: the caller's clock may strike a little before ours.

So may the event loop's, whose timers have whole milliseconds in uvloop.
"""


class Inbound:
    """Begins calls for one server."""

    def __init__(self, settings: ServerSettings, *, tracing: Tracing, clock: Clock) -> None:
        self._default_deadline_s = settings.default_deadline_s
        self._tracing = tracing
        self._clock = clock

    def begin(self, method: str, headers: Mapping[str, str], request_id: str, left_s: float | None) -> Call:
        """Return the call that `method` was called with, still anonymous, its span open unless the rpc is endless.

        `left_s` is the time it has, in seconds; None: the server's default.
        """
        deadline = Deadline.after(self._default_deadline_s if left_s is None else left_s, self._clock)
        request_id = request_id[:128] or new_id()
        if method in ENDLESS:
            return Call(request_id, deadline)
        path = method.lstrip("/")
        span = self._tracing.start(path, extract(headers), kind=SpanKind.SERVER)
        if span.is_recording():
            service, _, name = path.partition("/")
            span.set_attributes(
                {
                    names.RPC_SYSTEM: "grpc",
                    names.RPC_SERVICE: service,
                    names.RPC_METHOD: name,
                    names.REQUEST_ID: request_id,
                    names.DEADLINE_LEFT_MS: round(deadline.left() * 1000),
                }
            )
        return Call(request_id, deadline, span)

    def limit_s(self, left_s: float | None) -> float | None:
        """Seconds after which a call that brought no deadline is ended; None for one that did."""
        return self._default_deadline_s if left_s is None else None


def told(error: BaseException, call: Call, method: str, *, by_default: bool) -> SpillwayError:
    """Return what `error`, which ended `call`, means to the caller; what nobody expected is logged whole.

    `by_default`: its deadline is the server's.
    """
    if isinstance(error, SpillwayError):
        return error
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        if call.deadline.left() >= CLOCKS_DIFFER_S:
            return Cancelled("the call was cancelled")
        return _by_default() if by_default else DeadlineExceeded()
    if isinstance(error, TimeoutError) and by_default and call.deadline.left() < CLOCKS_DIFFER_S:
        return _by_default()
    log.error("rpc.crashed", method=method, exc_info=error)
    return Internal(f"internal error; request id {call.request_id}")


def _by_default() -> DeadlineExceeded:
    return DeadlineExceeded("the server's default deadline has passed; send a deadline with the call")
