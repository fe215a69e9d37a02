"""One inbound call: whose it is, until when it may run, and which span it runs under."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import field, replace
from random import Random

from opentelemetry.trace import INVALID_SPAN, Span

from spillway.deadline import Deadline
from spillway.record import record
from spillway.rpc.defaults import NONE, Defaults

ANONYMOUS = "anonymous"
LINE_SHARE = 0.5
"""Of the time for the first token, what may pass in a line."""


_chance = Random()
"""Its own: vLLM seeds that of the process, in every engine alike."""


def new_id() -> str:
    """Return an id that nobody else gives: 128 random bits in hex. It is no secret, so the system is not asked."""
    return f"{_chance.getrandbits(128):032x}"


@record
class Caller:
    """Who calls, as their key says."""

    tenant: str = ANONYMOUS
    key_name: str = ""
    scopes: frozenset[str] = frozenset()
    defaults: Defaults = NONE


@record
class Call:
    """What travels with a request through one service, and on to the next."""

    request_id: str
    deadline: Deadline
    span: Span = INVALID_SPAN
    caller: Caller = field(default=Caller())
    hop: int = 0
    """Services passed before this one; one that passes a request on says `onward()`."""
    attempts_left: int | None = None
    """Attempts that routers before this one leave to it; None: it goes by its own limit."""

    first_token: Deadline | None = None
    """Until when the router before this service waits for a first token; None: until the deadline."""

    @property
    def line_s(self) -> float:
        """Seconds the call may wait for its turn: half of those left for the first token, which is then still to come.

        Who waits longer is found silent, and is taken for sick where it was only busy.
        """
        awaited = self._awaited
        return self.deadline.left() if awaited is None else min(self.deadline.left(), awaited.left() * LINE_SHARE)

    def under(self, span: Span) -> Call:
        """The same call, its further work under `span`."""
        return replace(self, span=span)

    def onward(self) -> Call:
        """The same call, one service further."""
        # What every request does: `replace` takes four times as long.
        told = self.request_id, self.deadline, self.span, self.caller
        return Call(*told, self.hop + 1, self.attempts_left, self.first_token)

    def until(self, deadline: Deadline) -> Call:
        """The same call with another deadline."""
        return replace(self, deadline=deadline)

    def heard_within(self, seconds: float) -> Call:
        """The same call, of which a first token is waited for so long at most."""
        before = self._awaited or self.deadline
        due = before.within(seconds)
        return self if due.at >= before.at else replace(self, first_token=due)

    @property
    def _awaited(self) -> Deadline | None:
        """`first_token`, until it has passed: who is asked for more after that has said something."""
        return None if self.first_token is None or self.first_token.passed else self.first_token


_CURRENT: ContextVar[Call | None] = ContextVar("spillway_call", default=None)


def current_call() -> Call:
    """The call this task serves. For servicers; everything below them is handed its `Call`."""
    call = _CURRENT.get()
    if call is None:
        raise LookupError("no call: this runs outside a served rpc")
    return call


def peek_call() -> Call | None:
    """The call this task serves, if any. For logs."""
    return _CURRENT.get()


def enter(call: Call) -> None:
    """Make `call` the one this task serves. For the boundary alone: each rpc runs in a task of its own."""
    _CURRENT.set(call)
