"""One rpc of a session's client, and the generations that are under way in it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self

import grpc
from google.rpc.status_pb2 import Status

from spillway import v1
from spillway.errors import DeadlineExceeded, SpillwayError, TargetDown, TargetDraining
from spillway.rpc.bypass import Bypass
from spillway.rpc.call import Call
from spillway.rpc.remote import meant
from spillway.rpc.status import from_rpc_error, from_status

MAX_FRAME_BYTES: Final = 2**20


class SessionUnsupported(Exception):
    """The other side serves no sessions."""


class SessionRefused(TargetDraining):
    """The session is about to end and did not take the generation up; a call of its own may go elsewhere."""


class Link:
    """One rpc and the generations that are under way in it."""

    def __init__(
        self, rpc: grpc.aio.StreamStreamCall[Any, Any], broke: Callable[[], None], stays: Callable[[], bool]
    ) -> None:
        """`broke` is told if it breaks; `stays` tells whether its connection is one that calls go to."""
        self._rpc = rpc
        self.stays = stays
        self._broke = broke
        self._generations: dict[int, Generation] = {}
        self._last = 0
        self._frames = [v1.SessionRequest()]
        self._bytes = 0
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed = False
        self.draining = False
        """The other side takes no new generations in it."""
        self._writing = asyncio.create_task(self._write(), name="session frames out")
        self._reading = asyncio.create_task(self._read(), name="session frames in")

    def start(self, start: v1.SessionStart, call: Call, address: str, window: int, bypass: Bypass | None) -> Generation:
        """Send `start` with what else there is to say in this turn of the loop."""
        self._last = start.id = self._last + 1
        size = start.ByteSize()
        generation = self._generations[start.id] = Generation(self, start.id, call, address, window, bypass)
        if self._bytes and self._bytes + size > MAX_FRAME_BYTES:
            self._frames.append(v1.SessionRequest())
            self._bytes = 0
        self._bytes += size
        self._frames[-1].starts.append(start)
        self._idle.clear()
        self._wanted.set()
        return generation

    @property
    def running(self) -> int:
        return len(self._generations)

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
            await asyncio.sleep(0)  # others that are at work in this turn of the loop share the frame
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
                generations = self._generations
                for number, event, tokens in zip(frame.ids[:], frame.events[:], frame.tokens[:], strict=True):
                    if (generation := generations.get(number)) is not None:
                        generation.take(event, tokens)
                for number in frame.alive:
                    if (generation := generations.get(number)) is not None:
                        generation.alive()
                for ended in frame.ended:
                    if (generation := generations.get(ended.id)) is not None:
                        generation.end(ended)
            error = partial(SessionRefused, "the session ended")  # in order: with its last generation
        except grpc.aio.AioRpcError as broken:
            error = partial(from_rpc_error, broken)
            if broken.code() is grpc.StatusCode.UNIMPLEMENTED:
                error = SessionUnsupported
            else:
                self._broke()
        except ValueError:
            error = partial(TargetDown, "a frame of the session does not tell of each event whose it is")
            self._broke()
            self._rpc.cancel()
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

    def __init__(self, link: Link, number: int, call: Call, address: str, window: int, bypass: Bypass | None) -> None:
        self._link = link
        self._window = window
        self._bypass = bypass
        self._number = number
        self._call = call
        self._address = address
        self._waiting: deque[bytes] = deque()
        self._taken = 0
        self._ended = False
        self._answer = b""
        self.alive: Callable[[], None] = lambda: None
        self._error: BaseException | None = None
        self._wanted: asyncio.Future[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(call.deadline.left(), self._late)

    def take(self, event: bytes, tokens: int) -> None:
        """Hear of an event: a delta if it has tokens."""
        wanted, bypass = self._wanted, self._bypass
        if tokens and bypass is not None and wanted is not None and not wanted.done() and bypass(event, tokens):
            self._credit()  # past its reader, who has read all there is
            return
        self._waiting.append(event)
        self._wake()

    def end(self, told: v1.RawSessionEnded) -> None:
        """Hear that it has ended."""
        self._ended, self._answer = True, told.answer
        status = Status.FromString(told.status)
        error = from_status(status) or TargetDown(f"{self._address} ended it with status {status.code}")
        if told.not_taken:
            self._link.draining, error = True, SessionRefused(error.message)
        self.fail(error if status.code else StopAsyncIteration())

    def fail(self, error: BaseException) -> None:
        """Nothing comes any more, for `error`."""
        if isinstance(error, SpillwayError):
            error = meant(error, self._call, self._address)
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
        self._bypass = None  # it knows who waits, as the error does by its traceback: cycles of thirty objects each
        self._error = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Told:
        while not self._waiting:
            if self._error is not None:
                raise self._error
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        event = self._waiting.popleft()
        self._credit()
        return Told(v1.GenerationEvent.FromString(event))

    async def whole(self) -> v1.GenerateResponse:
        """Return the answer of a generation that is told whole."""
        async for _ in self:
            raise TargetDown(f"{self._address} was asked for a whole answer and told an event")
        if not self._answer:
            raise TargetDown(f"{self._address} ended it without an answer")
        return v1.GenerateResponse.FromString(self._answer)

    def _credit(self) -> None:
        """Another event is out of the way."""
        self._taken += 1
        if self._taken * 2 >= self._window and not self._ended:
            self._link.credit(self._number, self._taken)
            self._taken = 0

    def _late(self) -> None:
        self._waiting.clear()
        self.fail(DeadlineExceeded(f"no answer from {self._address} before the deadline"))

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def __repr__(self) -> str:
        return f"<Generation {self._number}{' ended' * self._ended}>"
