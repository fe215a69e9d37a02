"""One rpc of a session's client, and the generations that are under way in it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from spillway import v1
from spillway.errors import DeadlineExceeded, RequestInvalid, SpillwayError, TargetDown, TargetDraining
from spillway.rpc.call import Call
from spillway.rpc.lane import Lane
from spillway.rpc.remote import meant
from spillway.rpc.status import from_rpc_error, from_status
from spillway.session.alarms import Alarms

Kind = TypeVar("Kind", bound=Message)

MAX_FRAME_BYTES: Final = 2**20


class SessionUnsupported(Exception):
    """The other side serves no sessions."""


class SessionRefused(TargetDraining):
    """The session is about to end and did not take the generation up; a call of its own may go elsewhere."""


class Link:
    """One rpc and the generations that are under way in it."""

    def __init__(
        self, rpc: grpc.aio.StreamStreamCall[Any, Any], broke: Callable[[], bool], stays: Callable[[], bool]
    ) -> None:
        """`broke` is told if it breaks, and says whether the connection stands.

        `stays` tells whether its connection is one that calls go to.
        """
        self._rpc = rpc
        self.stays = stays
        self._broke = broke
        self._generations: dict[int, Generation] = {}
        self._alarms = Alarms(self._generations, Generation.late)
        self._last = 0
        self._frames = [v1.SessionRequest()]
        self._due: dict[int, Generation] = {}
        self._unsent: list[v1.SessionRequest] = []
        """Frames that were to be written when the rpc had ended."""
        self._bytes = 0
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed = False
        self.draining = False
        """The other side takes no new generations in it."""
        self._writing = asyncio.create_task(self._write(), name="session frames out")
        self._reading = asyncio.create_task(self._read(), name="session frames in")

    def start(
        self, told: Mapping[str, Any], size: int, call: Call, address: str, window: int, lane: Lane | None
    ) -> Generation:
        """Send a SessionStart of these fields, some `size` bytes, with what else there is to say in this turn."""
        self._last = number = self._last + 1
        if self._bytes and self._bytes + size > MAX_FRAME_BYTES:
            self._frames.append(v1.SessionRequest())
            self._bytes = 0
        self._bytes += size
        self._frames[-1].starts.add(id=number, **told)
        generation = self._generations[number] = Generation(self, number, call, address, window, lane)
        self._alarms.add(number, call.deadline.left())
        self._idle.clear()
        self._wanted.set()
        return generation

    @property
    def here(self) -> bool:
        """Whether it takes generations: its connection is one that calls go to now."""
        return not self.closed and not self.draining and self.stays()

    @property
    def running(self) -> int:
        return len(self._generations)

    def credit(self, generation: Generation, *, soon: bool) -> None:
        """Give `generation` credit for what it has taken, with the next frame; `soon` makes one for all that wait."""
        self._due[generation.number] = generation
        if soon:
            self._wanted.set()

    def leave(self, number: int, *, ended: bool) -> None:
        """Forget a generation; one that has not ended is cancelled."""
        del self._generations[number]
        self._due.pop(number, None)
        if not self._generations:
            self._idle.set()
        if not ended and not self.closed:
            self._frames[-1].cancels.append(number)
            self._wanted.set()

    async def _write(self) -> None:
        while True:
            await self._wanted.wait()
            if len(self._generations) > 1:
                await asyncio.sleep(0)  # others that are at work in this turn of the loop share the frame
            self._wanted.clear()
            frames, self._frames, self._bytes = self._frames, [v1.SessionRequest()], 0
            for number, generation in self._due.items():
                frames[-1].credits.add(id=number, events=generation.taken)
                generation.taken = 0
            self._due.clear()
            try:
                while frames:
                    await self._rpc.write(frames[0])
                    del frames[0]
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                self._unsent = frames
                return  # who reads learns why

    async def _read(self) -> None:
        error: Callable[[], SpillwayError | SessionUnsupported] = partial(TargetDown, "the session was closed")
        refused: set[int] = set()
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
            error = partial(SessionRefused, "the session ended")  # in order, with its last generation
        except grpc.aio.AioRpcError as broken:
            error = partial(_broken, broken)
            if broken.code() is grpc.StatusCode.UNIMPLEMENTED:
                error = SessionUnsupported
            elif self._broke() and broken.code() is grpc.StatusCode.INTERNAL:
                # gRPC's word for a write after the end, over how the other side ended it: in order, as a rule.
                refused = {start.id for frame in (*self._unsent, *self._frames) for start in frame.starts}
        except ValueError:
            error = partial(TargetDown, "a frame of the session does not tell of each event whose it is")
            self._broke()
            self._rpc.cancel()
        finally:
            self.closed = True
            self._alarms.stop()
            self._writing.cancel()
            for number, generation in self._generations.items():  # to each its own: who catches it adds to it
                generation.fail(SessionRefused("the session had ended") if number in refused else error())

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

    __slots__ = (
        "__weakref__",
        "_address",
        "_answer",
        "_call",
        "_ended",
        "_error",
        "_half",
        "_lane",
        "_link",
        "_most",
        "_waiting",
        "_wanted",
        "alive",
        "number",
        "taken",
    )

    def __init__(self, link: Link, number: int, call: Call, address: str, window: int, lane: Lane | None) -> None:
        self._link = link
        self._half, self._most = max(1, window // 2), max(1, window * 3 // 4)
        self._lane = lane
        self.number = number
        self._call = call
        self._address = address
        self._waiting: deque[bytes] = deque()
        self.taken = 0
        """Events since the last credit."""
        self._ended = False
        self._answer = b""
        self.alive: Callable[[], None] = lambda: None
        self._error: BaseException | None = None
        self._wanted: asyncio.Future[None] | None = None
        """Of who waits for the next event, having read all there is."""

    def take(self, event: bytes, tokens: int) -> None:
        """Hear of an event: a delta if it has tokens."""
        if tokens and self._lane is not None and self._wanted is not None and self._lane.take(event, tokens):
            self.taken += 1  # past its reader
            if self.taken >= self._half:
                self._credit()
            return
        self._waiting.append(event)
        self._wake()

    def end(self, told: v1.RawSessionEnded) -> None:
        """Hear that it has ended."""
        self._ended, self._answer = True, told.answer
        try:
            status = self._parsed(Status, told.status)
        except TargetDown as unread:
            self.fail(unread)
            return
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
        self._link.leave(self.number, ended=self._ended)
        self._lane = None  # it knows who waits, as the error does by its traceback: cycles of thirty objects each
        self._error = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Told:
        while not self._waiting:
            if self._error is not None:
                raise self._error
            self._wanted = asyncio.get_running_loop().create_future()
            try:
                await self._wanted
            finally:
                self._wanted = None
        event = self._parsed(v1.GenerationEvent, self._waiting.popleft())
        self.taken += 1
        if self.taken >= self._half:
            self._credit()
        return Told(event)

    async def whole(self) -> v1.GenerateResponse:
        """Return the answer of a generation that is told whole."""
        async for _ in self:
            raise TargetDown(f"{self._address} was asked for a whole answer and told an event")
        if not self._answer:
            raise TargetDown(f"{self._address} ended it without an answer")
        return self._parsed(v1.GenerateResponse, self._answer)

    def _parsed(self, kind: type[Kind], told: bytes) -> Kind:
        try:
            return kind.FromString(told)
        except DecodeError:
            raise TargetDown(f"{self._address} told something that cannot be read") from None

    def _credit(self) -> None:
        """Half of what may be under way is out of the way."""
        if not self._ended:
            self._link.credit(self, soon=self.taken >= self._most)

    def late(self) -> None:
        """Its time is up."""
        if self._error is not None:
            return  # its end is here already, and what comes before it
        self._waiting.clear()
        self.fail(DeadlineExceeded(f"no answer from {self._address} before the deadline"))

    def _wake(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not wanted.done():
            wanted.set_result(None)

    def __repr__(self) -> str:
        return f"<Generation {self.number}{' ended' * self._ended}>"


def _broken(error: grpc.aio.AioRpcError) -> SpillwayError:
    """What `error`, which ended a session, means to a generation in it: that was neither wrong nor late for it."""
    told = from_rpc_error(error)
    return TargetDown(told.message) if isinstance(told, RequestInvalid | DeadlineExceeded) else told
