"""The client's side of sessions: generations of one peer share an rpc, opened when the first needs it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Self

import grpc
from google.rpc.status_pb2 import Status
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from spillway import v1
from spillway.errors import DeadlineExceeded, TargetDown
from spillway.rpc.call import ANONYMOUS, Call
from spillway.rpc.methods import SESSION
from spillway.rpc.remote import Remote, meant
from spillway.rpc.status import from_rpc_error, from_status
from spillway.telemetry.tracing import TRACEPARENT, inject

WINDOW: Final = 16
"""Events of one generation that may be on their way or waiting to be read."""


MAX_START_BYTES: Final = 2**18
"""Longer requests go in a call of their own: one that is too large for the other side fails alone."""
MAX_FRAME_BYTES: Final = 2**20


class SessionUnsupported(Exception):
    """The other side serves no sessions."""


class Session:
    """Generations at `remote` over one rpc. One that breaks fails its generations; the next opens another."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._method = remote.channel.stream_stream(
            SESSION,
            request_serializer=v1.SessionRequest.SerializeToString,
            response_deserializer=v1.RawSessionResponse.FromString,
        )
        self._links: list[_Link] = []

    @asynccontextmanager
    async def stream(
        self,
        request: v1.StreamGenerateRequest,
        call: Call,
        *,
        span_name: str,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> AsyncIterator[Generation]:
        """Begin a generation under `call`; leaving the block ends it on the other side too.

        Raises SessionUnsupported before its first event where there are no sessions; else SpillwayError alone.
        """
        with self._remote.span(span_name, call, attributes) as span:
            link = self._least_busy()
            generation = link.start(self._start(request, call, span), call, self._remote.address)
            try:
                yield generation
            finally:
                generation.leave()

    def _least_busy(self) -> _Link:
        """The link for the next generation: there is one for each connection, and new ones where those changed."""
        revision, breadth = self._remote.revision, self._remote.breadth
        self._links = [link for link in self._links if not link.closed]
        here = [link for link in self._links if link.revision == revision]
        for link in self._links:
            if link.revision != revision and not link.running:
                link.end()
        if len(here) < breadth and all(link.running for link in here):
            link = _Link(self._method(metadata=self._remote.key_headers()), revision)
            self._links.append(link)
            return link
        return min(here, key=lambda link: link.running)

    def _start(self, request: v1.StreamGenerateRequest, call: Call, span: Span) -> v1.SessionStart:
        if call.deadline.passed:
            raise DeadlineExceeded(f"the deadline had passed before {self._remote.address} was called")
        trace = inject(span)
        start = v1.SessionStart(
            request=request,
            deadline_ms=max(1, round(call.deadline.left() * 1000)),
            credit=WINDOW,
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

    async def close(self, grace_s: float | None = None) -> None:
        """End the session, once its generations have ended or `grace_s` seconds have passed; None: at once."""
        links, self._links = self._links, []
        await asyncio.gather(*(link.close(grace_s) for link in links))

    def __repr__(self) -> str:
        return f"<Session {self._remote.address} {self._links!r}>"


class _Link:
    """One rpc and the generations that are under way in it."""

    def __init__(self, rpc: grpc.aio.StreamStreamCall[Any, Any], revision: int = 0) -> None:
        """`revision` is that of the connections it was opened under."""
        self._rpc = rpc
        self.revision = revision
        self._generations: dict[int, Generation] = {}
        self._last = 0
        self._frames = [v1.SessionRequest()]
        self._bytes = 0
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed = False
        self._writing = asyncio.create_task(self._write(), name="session frames out")
        self._reading = asyncio.create_task(self._read(), name="session frames in")

    @property
    def running(self) -> int:
        return len(self._generations)

    def start(self, start: v1.SessionStart, call: Call, address: str) -> Generation:
        """Send `start` with what else there is to say in this turn of the loop."""
        self._last = start.id = self._last + 1
        size = start.ByteSize()
        generation = self._generations[start.id] = Generation(self, start.id, call, address)
        if self._bytes and self._bytes + size > MAX_FRAME_BYTES:
            self._frames.append(v1.SessionRequest())
            self._bytes = 0
        self._bytes += size
        self._frames[-1].starts.append(start)
        self._idle.clear()
        self._wanted.set()
        return generation

    def credit(self, number: int, events: int) -> None:
        self._frames[-1].credits.add(id=number, events=events)
        self._wanted.set()

    def leave(self, number: int, *, ended: bool) -> None:
        """Forget a generation; one that has not ended is cancelled."""
        del self._generations[number]
        if not self._generations:
            self._idle.set()
        if not ended and not self.closed:
            self._frames[-1].cancels.append(number)
            self._wanted.set()

    async def _write(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            frames, self._frames, self._bytes = self._frames, [v1.SessionRequest()], 0
            try:
                for frame in frames:
                    await self._rpc.write(frame)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # who reads learns why

    async def _read(self) -> None:
        error: Callable[[], Exception] = partial(TargetDown, "the session was closed")
        try:
            async for frame in self._rpc:
                for told in frame.events:
                    generation = self._generations.get(told.id)
                    if generation is not None:
                        generation.take(told)
            error = partial(TargetDown, "the session ended")
        except grpc.aio.AioRpcError as broken:
            unsupported = broken.code() is grpc.StatusCode.UNIMPLEMENTED
            error = SessionUnsupported if unsupported else partial(from_rpc_error, broken)
        finally:
            self.closed = True
            self._writing.cancel()
            for generation in self._generations.values():
                generation.fail(error())  # each its own: who catches it adds to it

    def end(self) -> None:
        """End the rpc now."""
        self._rpc.cancel()

    async def close(self, grace_s: float | None) -> None:
        """End the rpc, once its generations have ended or `grace_s` seconds have passed."""
        if grace_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._idle.wait()
        self._rpc.cancel()
        self._reading.cancel()
        await asyncio.wait({self._reading, self._writing})

    def __repr__(self) -> str:
        return f"<{len(self._generations)} generations{' closed' * self.closed}>"


class Told:
    """An event as it came: StreamGenerateResponse's likeness."""

    __slots__ = ("event",)

    def __init__(self, event: v1.GenerationEvent) -> None:
        self.event = event


class Generation:
    """One generation of a session: iterate over its events. Raises what its status says, or TargetDown."""

    def __init__(self, link: _Link, number: int, call: Call, address: str) -> None:
        self._link = link
        self._number = number
        self._call = call
        self._address = address
        self._waiting: deque[v1.RawSessionEvent] = deque()
        self._taken = 0
        self._ended = False
        self._error: BaseException | None = None
        self._wanted: asyncio.Future[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(call.deadline.left(), self._late)

    def take(self, told: v1.RawSessionEvent) -> None:
        """Hear of what has happened."""
        if told.HasField("ended"):
            self._ended = True
            status = Status.FromString(told.ended.status)
            error = from_status(status) or TargetDown(f"{self._address} ended it with status {status.code}")
            self.fail(meant(error, self._call, self._address) if status.code else StopAsyncIteration())
            return
        self._waiting.append(told)
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Nothing comes any more, for `error`."""
        if self._error is None:
            self._error = error
        self._wake()

    def cancel(self) -> None:
        """Wait for nothing more."""
        self.fail(asyncio.CancelledError())

    def leave(self) -> None:
        """Its reader has gone."""
        self._timer.cancel()
        self._link.leave(self._number, ended=self._ended)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Told:
        while not self._waiting:
            if self._error is not None:
                raise self._error
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        told = self._waiting.popleft()
        self._taken += 1
        if self._taken * 2 >= WINDOW and not self._ended:
            self._link.credit(self._number, self._taken)
            self._taken = 0
        return Told(v1.GenerationEvent.FromString(told.event))

    def _late(self) -> None:
        self._waiting.clear()
        self.fail(DeadlineExceeded(f"no answer from {self._address} before the deadline"))

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def __repr__(self) -> str:
        return f"<Generation {self._number}{' ended' * self._ended}>"
