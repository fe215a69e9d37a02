"""The client's side of sessions: generations of one peer share an rpc, opened when the first needs it."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from spillway import v1
from spillway.deadline import Clock
from spillway.errors import DeadlineExceeded
from spillway.rpc.bypass import Bypass
from spillway.rpc.call import ANONYMOUS, Call
from spillway.rpc.methods import SESSION
from spillway.rpc.remote import Remote
from spillway.session.backoff import Backoff
from spillway.session.link import Generation, Link
from spillway.telemetry.tracing import TRACEPARENT, inject

WINDOW: Final = 16
"""Events of one generation that may be on their way or waiting to be read, where who reads passes them on."""

MAX_START_BYTES: Final = 2**18
"""Longer requests go in a call of their own: one that is too large for the other side fails alone."""
MAX_GENERATIONS: Final = 4096
"""Of one session at once."""


class Session:
    """Generations at `remote` over one rpc. One that breaks fails its generations; the next opens another.

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
        self._link: Link | None = None

    def takes(self, request: v1.StreamGenerateRequest | v1.GenerateRequest) -> bool:
        """Whether `request` is to go in the session now; else in a call of its own.

        That is for what is large or one too many, while the other side drains the session, and while none is opened.
        """
        if request.ByteSize() > MAX_START_BYTES:
            return False
        if self._link is None or self._link.closed:
            return self._backoff.over(self._clock())
        return not self._link.draining and self._link.running < MAX_GENERATIONS

    @asynccontextmanager
    async def stream(
        self,
        request: v1.StreamGenerateRequest,
        call: Call,
        *,
        span_name: str,
        attributes: Mapping[str, AttributeValue] | None = None,
        bypass: Bypass | None = None,
    ) -> AsyncIterator[Generation]:
        """Begin a generation under `call`; leaving the block ends it on the other side too.

        While its reader waits for the next event, `bypass` is offered the deltas first.
        Raises SessionUnsupported, or SessionRefused, before its first event; else SpillwayError alone.
        """
        with self._remote.span(span_name, call, attributes) as span:
            generation = self._begin(self._start(call, span, request=request), call, bypass)
            try:
                yield generation
            finally:
                generation.leave()

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
            generation = self._begin(self._start(call, span, generate=request), call)
            generation.alive = alive
            try:
                return await generation.whole()
            finally:
                generation.leave()

    def _begin(self, start: v1.SessionStart, call: Call, bypass: Bypass | None = None) -> Generation:
        if self._link is None or self._link.closed:
            broke = partial(self._broke, self._clock())
            self._link = Link(self._method(metadata=self._remote.key_headers()), broke)
        return self._link.start(start, call, self._remote.address, self._window, bypass)

    def _start(
        self,
        call: Call,
        span: Span,
        *,
        request: v1.StreamGenerateRequest | None = None,
        generate: v1.GenerateRequest | None = None,
    ) -> v1.SessionStart:
        if call.deadline.passed:
            raise DeadlineExceeded(f"the deadline had passed before {self._remote.address} was called")
        trace = inject(span)
        start = v1.SessionStart(
            request=request,
            generate=generate,
            deadline_ms=max(1, round(call.deadline.left() * 1000)),
            credit=self._window,
            traceparent=trace.get(TRACEPARENT, ""),
            tracestate=trace.get("tracestate", ""),
            hop=call.hop,
            request_id=call.request_id,
        )
        if call.caller.tenant != ANONYMOUS:
            start.tenant = call.caller.tenant
        if call.attempts_left is not None:
            start.attempts_left = call.attempts_left
        if call.first_token is not None:
            start.first_token_ms = round(call.first_token.left() * 1000)
        return start

    def _broke(self, opened: float) -> None:
        if self._remote.connected:
            now = self._clock()
            self._backoff = self._backoff.after(now - opened, now, self._chance())

    async def close(self, grace_s: float | None = None) -> None:
        """End the session, once its generations have ended or `grace_s` seconds have passed; None: at once."""
        link, self._link = self._link, None
        if link is not None:
            await link.close(grace_s)

    def __repr__(self) -> str:
        return f"<Session {self._remote.address} {self._link!r}>"
