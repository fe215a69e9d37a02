"""What a session's server has to say, gathered into frames: while one is on its way the next fills."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final

from spillway import v1

MAX_FRAME_BYTES: Final = 2**20
"""A frame holds so many at most, or one event; well below what a client receives."""
MAX_FRAMES: Final = 16
"""That wait for a slow reader: what its generations have more, they keep to themselves."""


class Outbox:
    """Events of many generations, in the order they were put."""

    def __init__(
        self, flow: Callable[[bool], None] = lambda on: None, shared: Callable[[], bool] = lambda: True
    ) -> None:
        """`flow` is told when enough is waiting, and when there is room again.

        `shared`: whether others may have something to say too.
        """
        self._flow = flow
        self._shared = shared
        self.full = False
        self._frames: deque[_Frame] = deque()
        self._filling: _Frame | None = None
        """The last of them."""
        self._wanted: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, number: int, event: bytes, tokens: int) -> None:
        """Say `event` of generation `number`: a serialized GenerationEvent, and its tokens where it is a delta."""
        size = len(event)
        frame = self._filling
        if frame is None or size > frame.room:
            frame = self._next()
        frame.room -= size
        frame.told.append((number, event, tokens))

    def alive(self, number: int) -> None:
        """Say that generation `number`, which is told whole, has its first token."""
        self._with_room(0).alive.append(number)

    def end(self, number: int, status: bytes, *, answer: bytes = b"", taken: bool = True) -> None:
        """Say that generation `number` has ended with `status`: a serialized google.rpc.Status, empty for OK.

        `answer`: a serialized GenerateResponse, of one that is told whole. Not `taken`: nothing was done about it.
        """
        ended = v1.RawSessionEnded(id=number, status=status, not_taken=not taken, answer=answer)
        self._with_room(len(status) + len(answer)).ended.append(ended)

    def close(self) -> None:
        """Nothing more will be put."""
        self._closed = True
        self._wake()

    async def frames(self) -> AsyncGenerator[bytes]:
        """Yield serialized SessionResponses until the outbox is closed and empty."""
        while True:
            if self._frames:
                frame = self._frames.popleft()
                if frame is self._filling:
                    self._filling = None
                if self.full and len(self._frames) <= MAX_FRAMES // 2:
                    self.full = False
                    self._flow(True)
                yield frame.serialized()
            elif self._closed:
                return
            else:
                self._wanted = asyncio.get_running_loop().create_future()
                await self._wanted
                if self._shared():
                    await asyncio.sleep(0)  # others that are at work in this turn of the loop share the frame

    def _with_room(self, size: int) -> _Frame:
        """The frame that is filled, with `size` bytes more."""
        frame = self._filling
        if frame is None or size > frame.room:
            frame = self._next()
        frame.room -= size
        return frame

    def _next(self) -> _Frame:
        """Another frame is filled."""
        self._filling = frame = _Frame()
        self._frames.append(frame)
        if not self.full and len(self._frames) >= MAX_FRAMES:
            self.full = True
            self._flow(False)
        self._wake()
        return frame

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)
        self._wanted = None

    def __repr__(self) -> str:
        return f"<Outbox {sum(len(frame.told) for frame in self._frames)} events{' closed' * self._closed}>"


class _Frame:
    """A RawSessionResponse that fills: a row costs a tenth of what a message of its own costs an event."""

    __slots__ = ("alive", "ended", "room", "told")

    def __init__(self) -> None:
        self.room = MAX_FRAME_BYTES
        self.told: list[tuple[int, bytes, int]] = []
        """Of each event its generation, itself and its tokens."""
        self.alive: list[int] = []
        self.ended: list[v1.RawSessionEnded] = []

    def serialized(self) -> bytes:
        ids, events, tokens = zip(*self.told, strict=True) if self.told else ((), (), ())
        return v1.RawSessionResponse(
            ids=ids, events=events, tokens=tokens, ended=self.ended, alive=self.alive
        ).SerializeToString()
