"""The client's side of sessions: generations of one peer share rpcs, opened as they are needed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, Final

from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from spillway import v1
from spillway.deadline import Clock
from spillway.errors import DeadlineExceeded
from spillway.rpc.call import ANONYMOUS, Call
from spillway.rpc.lane import Lane
from spillway.rpc.methods import SESSION
from spillway.rpc.remote import MAX_TIMEOUT_S, Remote
from spillway.session.backoff import Backoff
from spillway.session.link import Generation, Link
from spillway.telemetry.tracing import TRACEPARENT, inject

WINDOW: Final = 32
"""Events of one generation that may be on their way or waiting to be read, where who reads passes them on."""

MAX_START_BYTES: Final = 2**18
"""Longer requests go in a call of their own: one that is too large for the other side fails alone."""
MAX_GENERATIONS: Final = 4096
"""Of one session at once."""


class Session:
    """Generations at `remote` over one rpc for each connection. One that breaks fails its generations alone.

    A lost connection is gRPC's to find again. While sessions break on one that stands, the next is opened after a
    backoff. `window` is how many events of one generation may wait to be read; `chance` draws from 0 to 1.
    """

    def __init__(
        self,
        remote: Remote,
        *,
        window: int = WINDOW,
        clock: Clock = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._remote = remote
        self._window = window
        self._clock = clock
        self._chance = chance
        self._backoff = Backoff()
        self._method = remote.channel.stream_stream(
            SESSION,
            request_serializer=v1.SessionRequest.SerializeToString,
            response_deserializer=v1.RawSessionResponse.FromString,
        )
        self._links: list[Link] = []

    def takes(self, request: v1.StreamGenerateRequest | v1.GenerateRequest) -> bool:
        """Whether `request` is to go in the session now; else in a call of its own.

        That is for what is large or one too many, while the other side drains the session, and while none is opened.
        """
        if request.ByteSize() > MAX_START_BYTES:
            return False
        full = draining = False
        for link in self._links:
            if link.here:
                if link.running < MAX_GENERATIONS:
                    return True
                full = True
            draining |= link.draining and not link.closed
        return not full and not draining and self._backoff.over(self._clock())

    def stream(
        self,
        request: v1.StreamGenerateRequest,
        call: Call,
        *,
        span_name: str,
        attributes: Mapping[str, AttributeValue] | None = None,
        lane: Lane | None = None,
    ) -> AbstractAsyncContextManager[Generation]:
        """Begin a generation under `call`; leaving the block ends it on the other side too.

        While its reader waits for the next event, `lane` is offered the deltas first.
        Raises SessionUnsupported, or SessionRefused, before its first event; else SpillwayError alone.
        """
        return _Opened(self, request, call, self._remote.span(span_name, call, attributes), lane)

    async def generate(
        self,
        request: v1.GenerateRequest,
        call: Call,
        *,
        span_name: str,
        attributes: Mapping[str, AttributeValue] | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> v1.GenerateResponse:
        """Return the whole answer to `request`, as Generate does. Raises what `stream` does.

        `alive` is called where its first token is told of before.
        """
        with self._remote.span(span_name, call, attributes) as span:
            generation = self._begin(request, call, span)
            generation.alive = alive
            try:
                return await generation.whole()
            finally:
                generation.leave()

    def _begin(
        self,
        request: v1.StreamGenerateRequest | v1.GenerateRequest,
        call: Call,
        span: Span,
        lane: Lane | None = None,
    ) -> Generation:
        told = self._told(call, span)
        told["generate" if isinstance(request, v1.GenerateRequest) else "request"] = request
        link, size = self._least_busy(), request.ByteSize()
        return link.start(told, size, call, self._remote.address, self._window, lane)

    def _here(self) -> list[Link]:
        """The links that take generations."""
        return [link for link in self._links if link.here]

    def _least_busy(self) -> Link:
        """The link for the next generation; each connection has one, once that is needed."""
        here = self._here()
        if len(here) < len(self._links):
            self._links = [link for link in self._links if not link.closed]
            for link in self._links:
                if not link.running and not link.stays():
                    link.end()
        if not here or (len(here) < self._remote.breadth and all(link.running for link in here)):
            broke = partial(self._broke, self._clock())
            rpc = self._method(metadata=self._remote.key_headers())
            self._links.append(Link(rpc, broke, partial(self._remote.stays, rpc)))
            return self._links[-1]
        return here[0] if len(here) == 1 else min(here, key=lambda link: link.running)

    def _told(self, call: Call, span: Span) -> dict[str, Any]:
        """What a SessionStart says of `call`. Raises DeadlineExceeded."""
        if call.deadline.passed:
            raise DeadlineExceeded(f"the deadline had passed before {self._remote.address} was called")
        trace = inject(span)
        told = {
            "deadline_ms": max(1, round(min(MAX_TIMEOUT_S, call.deadline.left()) * 1000)),
            "credit": self._window,
            "traceparent": trace.get(TRACEPARENT, ""),
            "tracestate": trace.get("tracestate", ""),
            "hop": call.hop,
            "request_id": call.request_id,
        }
        if call.caller.tenant != ANONYMOUS:
            told["tenant"] = call.caller.tenant
        if call.attempts_left is not None:
            told["attempts_left"] = call.attempts_left
        if call.first_token is not None:
            told["first_token_ms"] = round(min(MAX_TIMEOUT_S, call.first_token.left()) * 1000)
        return told

    def _broke(self, opened: float) -> bool:
        """Hear that a link broke that was opened then; return whether its connection stands."""
        stands = self._remote.connected
        if stands:
            now = self._clock()
            self._backoff = self._backoff.after(now - opened, now, self._chance())
        return stands

    async def close(self, grace_s: float | None = None) -> None:
        """End the session, once its generations have ended or `grace_s` seconds have passed; None: at once."""
        links, self._links = self._links, []
        await asyncio.gather(*(link.close(grace_s) for link in links))

    def __repr__(self) -> str:
        return f"<Session {self._remote.address} {self._links!r}>"


class _Opened(AbstractAsyncContextManager[Generation]):
    """A generation that ends with its block. A class: a generator would cost a call three times as much."""

    __slots__ = ("_call", "_generation", "_lane", "_request", "_session", "_span")

    _generation: Generation

    def __init__(
        self,
        session: Session,
        request: v1.StreamGenerateRequest,
        call: Call,
        span: AbstractContextManager[Span],
        lane: Lane | None,
    ) -> None:
        self._session, self._request, self._call, self._span, self._lane = session, request, call, span, lane

    async def __aenter__(self) -> Generation:
        session, span = self._session, self._span.__enter__()
        try:
            self._generation = session._begin(self._request, self._call, span, self._lane)
        except BaseException as error:
            self._span.__exit__(type(error), error, error.__traceback__)
            raise
        return self._generation

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._generation.leave()
        self._span.__exit__(kind, error, trace)
