"""What a session's server has to say, gathered into frames: while one is on its way the next fills."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

from spillway import v1

MAX_FRAME_BYTES: Final = 2**20
"""A frame holds so many at most, or one event; well below what a client receives."""


class Outbox:
    """Events of many generations, in the order they were put."""

    def __init__(self) -> None:
        self._frames: deque[_Frame] = deque()
        self._wanted: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, number: int, event: bytes, tokens: int) -> None:
        """Say `event` of generation `number`: a serialized GenerationEvent, and its tokens where it is a delta."""
        frame = self._open(len(event))
        frame.ids.append(number)
        frame.events.append(event)
        frame.tokens.append(tokens)

    def alive(self, number: int) -> None:
        """Say that generation `number`, which is told whole, has its first token."""
        self._open(0).alive.append(number)

    def end(self, number: int, status: bytes, *, answer: bytes = b"", taken: bool = True) -> None:
        """Say that generation `number` has ended with `status`: a serialized google.rpc.Status, empty for OK.

        `answer`: a serialized GenerateResponse, of one that is told whole. Not `taken`: nothing was done about it.
        """
        ended = v1.RawSessionEnded(id=number, status=status, not_taken=not taken, answer=answer)
        self._open(len(status) + len(answer)).ended.append(ended)

    def close(self) -> None:
        """Nothing more will be put."""
        self._closed = True
        self._wake()

    async def frames(self) -> AsyncGenerator[bytes]:
        """Yield serialized SessionResponses until the outbox is closed and empty."""
        while True:
            if self._frames:
                yield self._frames.popleft().serialized()
            elif self._closed:
                return
            else:
                self._wanted = asyncio.get_running_loop().create_future()
                await self._wanted
                await asyncio.sleep(0)  # others that are at work in this turn of the loop share the frame

    def _open(self, size: int) -> _Frame:
        """The frame that is filled, with `size` bytes more."""
        if not self._frames or self._frames[-1].bytes + size > MAX_FRAME_BYTES:
            self._frames.append(_Frame())
            self._wake()
        frame = self._frames[-1]
        frame.bytes += size
        return frame

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)
        self._wanted = None

    def __repr__(self) -> str:
        return f"<Outbox {sum(len(frame.ids) for frame in self._frames)} events{' closed' * self._closed}>"


class _Frame:
    """A RawSessionResponse that fills: lists cost a tenth of what a message of their own costs an event."""

    __slots__ = ("alive", "bytes", "ended", "events", "ids", "tokens")

    def __init__(self) -> None:
        self.bytes = 0
        self.alive: list[int] = []
        self.ids: list[int] = []
        self.events: list[bytes] = []
        self.tokens: list[int] = []
        self.ended: list[v1.RawSessionEnded] = []

    def serialized(self) -> bytes:
        return v1.RawSessionResponse(
            ids=self.ids, events=self.events, tokens=self.tokens, ended=self.ended, alive=self.alive
        ).SerializeToString()
