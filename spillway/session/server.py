"""The server's side of sessions: every generation a task, its events gathered with those of the others into frames."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

from google.protobuf.message import DecodeError, Message

from spillway import v1
from spillway.deadline import Clock
from spillway.errors import Cancelled, QueueFull, RequestInvalid, StreamInterrupted, TargetDraining
from spillway.generation import Folder, tokens_in
from spillway.rpc import inbound
from spillway.rpc.admission import admit_start
from spillway.rpc.call import Call, current_call, enter
from spillway.rpc.inbound import Inbound
from spillway.rpc.lane import Lane
from spillway.rpc.methods import GENERATE, STREAM_GENERATE
from spillway.rpc.status import to_status
from spillway.session.alarms import Alarms
from spillway.session.client import MAX_GENERATIONS
from spillway.session.outbox import Outbox
from spillway.settings import ServerSettings
from spillway.telemetry import names
from spillway.telemetry.tracing import TRACEPARENT, Tracing, fail

Request = v1.StreamGenerateRequest | v1.GenerateRequest
Generate = Callable[[Request, Call, Lane], Awaitable[AsyncGenerator[v1.GenerationEvent]]]
"""Decides, and returns what StreamGenerate answers, unwrapped. Between two events deltas may go by the lane."""
Whole = Callable[[v1.GenerateRequest, Call, Callable[[], None]], Awaitable[v1.GenerateResponse]]
"""What Generate answers; the last argument is called when its first token is there."""

MAX_CREDIT: Final = 2**20
RECEIVED_BYTES: Final = 16 * 2**20
"""The longest message that clients take, where this server's own limit says no more."""
FRAME_BYTES: Final = 256
"""Of it at most is the frame of an event or an answer that fills it."""
_CANCELLED: Final = to_status(Cancelled("the call was cancelled")).SerializeToString()


class Sessions:
    """Serves the sessions of one server. Ends with it: a session that is idle then is closed.

    Without `whole` the events of `generate` are folded for who asks for them as one.
    """

    def __init__(
        self,
        generate: Generate,
        settings: ServerSettings,
        *,
        tracing: Tracing,
        clock: Clock = time.monotonic,
        whole: Whole | None = None,
    ) -> None:
        self._generate = generate
        self._whole = whole or self._folded
        self._stall_s = settings.write_stall_s
        self._most = max(RECEIVED_BYTES, settings.max_receive_bytes) - FRAME_BYTES
        self._inbound = Inbound(settings, tracing=tracing, clock=clock)
        self._running: set[_Session] = set()
        self._draining = False

    async def serve(self, requests: AsyncIterator[v1.SessionRequest]) -> AsyncGenerator[bytes]:
        """Yield the frames of one session. Raises RequestInvalid for an id that was given twice."""
        session = _Session(self, current_call())
        self._running.add(session)
        reading = asyncio.create_task(session.read(requests), name="session")
        try:
            if self._draining:
                session.drain()
            async for frame in session.outbox.frames():
                yield frame
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            self._running.discard(session)
            await session.close()
            await asyncio.wait({reading})

    async def _folded(self, request: v1.GenerateRequest, call: Call, alive: Callable[[], None]) -> v1.GenerateResponse:
        folder = Folder()
        async with aclosing(await self._generate(request, call, Lane())) as events:
            async for event in events:
                if event.HasField("started"):
                    alive()
                folder.add(event)
        return folder.whole()

    def bounded(self, told: Message) -> bytes:
        """Return `told`, serialized. Raises RequestInvalid where no client could take the frame, nor the session go on.

        So a client fails a call of its own whose answer is too large for it.
        """
        raw = told.SerializeToString()
        if len(raw) > self._most:
            raise RequestInvalid(
                f"{len(raw)} bytes of answer at once are larger than the {self._most} a frame may have"
            )
        return raw

    async def stop(self, grace_s: float) -> None:
        """Take no new generations; sessions end with their last."""
        self._draining = True
        for session in self._running:
            session.drain()

    def __repr__(self) -> str:
        return f"<Sessions {len(self._running)}>"


class _Session:
    def __init__(self, sessions: Sessions, call: Call) -> None:
        self._sessions = sessions
        self._call = call
        self._generations: dict[int, _Generation] = {}
        self._alarms = Alarms(self._generations, lambda generation: generation.task.cancel())
        self._last = 0
        self._ending = False
        self.outbox = Outbox(self._flow, lambda: len(self._generations) > 1)

    async def read(self, requests: AsyncIterator[v1.SessionRequest]) -> None:
        """Do what the client says, until it says no more; the session then ends with its last generation."""
        try:
            async for request in requests:
                for start in request.starts:
                    self._start(start)
                for number in request.cancels:
                    if (generation := self._generations.get(number)) is not None:
                        generation.task.cancel()
                for credit in request.credits:
                    if (generation := self._generations.get(credit.id)) is not None:
                        generation.give(credit.events)
        # Whatever it is, the client is not heard any more: the session ends, and what runs in it.
        except BaseException as error:
            self.outbox.close()
            if isinstance(error, DecodeError):
                raise RequestInvalid("a frame of the session cannot be read") from None
            raise
        self.drain()

    def _flow(self, on: bool) -> None:
        """Hold back what the generations have to say, or let them go on."""
        for generation in self._generations.values():
            generation.flow(on)

    def drain(self) -> None:
        """End with the last generation."""
        self._ending = True
        self._rest()

    def _start(self, start: v1.SessionStart) -> None:
        if start.id <= self._last:
            raise RequestInvalid.at("starts.id", f"{start.id} is not above all that were given before")
        self._last = start.id
        generation = _Generation(start.id, start.credit, self.outbox)
        generation.taken = not self._ending
        generation.flow(not self.outbox.full)
        self._generations[start.id] = generation
        generation.task = asyncio.create_task(self._run(start, generation))
        generation.task.add_done_callback(lambda _: self._ended(start.id, generation))

    async def _run(self, start: v1.SessionStart, generation: _Generation) -> None:
        """Carry out one generation, and say how it ended."""
        sessions = self._sessions
        left_s = start.deadline_ms / 1000 if start.HasField("deadline_ms") else None
        whole = start.HasField("generate")
        method = GENERATE if whole else STREAM_GENERATE
        request_id = (start.generate if whole else start.request).spec.request_id or start.request_id
        call = sessions._inbound.begin(method, _trace(start), request_id, left_s)
        self._alarms.add(start.id, call.deadline.left())
        try:
            call = admit_start(call, start, self._call.caller)
            if call.span.is_recording():
                call.span.set_attribute(names.TENANT, call.caller.tenant)
            enter(call)
            if not generation.taken:
                raise TargetDraining("this server is about to stop")
            if len(self._generations) > MAX_GENERATIONS:
                raise QueueFull(f"this session has {MAX_GENERATIONS} generations already", resource="session")
            if whole:
                alive = partial(self.outbox.alive, start.id)
                answer = await sessions._whole(start.generate, call, alive)
                generation.answer, generation.status = sessions.bounded(answer), b""
                return
            async with aclosing(await sessions._generate(start.request, call, generation.lane)) as events:
                async for event in events:
                    if not generation.lane.credit:
                        await generation.credited(sessions._stall_s)
                    generation.put(sessions.bounded(event), tokens_in(event))
            generation.status = b""
        # Whatever it is, it is told as StreamGenerate tells it, and the session goes on.
        except BaseException as error:
            meant = inbound.told(error, call, method, by_default=left_s is None)
            fail(call.span, meant.reason)
            call.span.set_attribute(names.RPC_STATUS, meant.code.value[0])
            generation.status = to_status(meant).SerializeToString()
        finally:
            call.span.end()

    def _ended(self, number: int, generation: _Generation) -> None:
        """Say so; of a generation that was cancelled before it began too."""
        del self._generations[number]
        self.outbox.end(number, generation.status, answer=generation.answer, taken=generation.taken)
        self._rest()

    def _rest(self) -> None:
        if self._ending and not self._generations:
            self.outbox.close()

    async def close(self) -> None:
        """End what still runs."""
        self._alarms.stop()
        tasks = {generation.task for generation in self._generations.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def __repr__(self) -> str:
        return f"<Session {len(self._generations)} generations, {self.outbox!r}>"


class _Generation:
    """What a generation may still send."""

    __slots__ = ("_held", "_more", "_number", "_outbox", "answer", "lane", "status", "taken", "task")

    task: asyncio.Task[None]

    def __init__(self, number: int, credit: int, outbox: Outbox) -> None:
        self._number = number
        self._outbox = outbox
        self.status = _CANCELLED
        self.answer = b""
        self.taken = True
        self.lane = Lane(partial(outbox.put, number), min(MAX_CREDIT, max(1, credit)))
        self._held: int | None = None
        """Credit that is not to be used now."""
        self._more: asyncio.Future[None] | None = None

    def put(self, event: bytes, tokens: int) -> None:
        """Send `event`, for which there is credit."""
        self.lane.credit -= 1
        self._outbox.put(self._number, event, tokens)

    def give(self, events: int) -> None:
        """The reader takes so many more."""
        if self._held is not None:
            self._held = min(MAX_CREDIT, self._held + events)
            return
        self.lane.credit = min(MAX_CREDIT, self.lane.credit + events)
        if self._more is not None and not self._more.done() and events:
            self._more.set_result(None)

    def flow(self, on: bool) -> None:
        """Send on, or use no credit until then: too much is waiting that the reader gave credit for."""
        if on and self._held is not None:
            held, self._held = self._held, None
            self.give(held)
        elif not on and self._held is None:
            self._held, self.lane.credit = self.lane.credit, 0

    async def credited(self, stall_s: float) -> None:
        """Return when there is credit. Raises StreamInterrupted where the reader gives none for so many seconds.

        While credit is held back, the reader takes what is there: whether it does is seen where frames are written.
        """
        while not self.lane.credit:
            self._more = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(stall_s):
                    await self._more
            except TimeoutError:
                if self._held is None and not self.lane.credit:
                    raise StreamInterrupted(f"the reader took nothing for {stall_s:g} s") from None
            finally:
                self._more = None


def at_once(generate: Callable[[Request, Call], AsyncGenerator[v1.GenerationEvent]]) -> Generate:
    """The `Generate` of a service that has nothing to decide, and no use for a lane."""

    async def begun(request: Request, call: Call, lane: Lane) -> AsyncGenerator[v1.GenerationEvent]:
        return generate(request, call)

    return begun


def _trace(start: v1.SessionStart) -> dict[str, str]:
    return {TRACEPARENT: start.traceparent, "tracestate": start.tracestate} if start.traceparent else {}
