"""What a session's server has to say, gathered into frames: while one is on its way the next fills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from spillway import v1

MAX_FRAME_BYTES: Final = 2**20
"""A frame holds so many at most, or one event; well below what a client receives."""


class Outbox:
    """Events of many generations, in the order they were put."""

    def __init__(self) -> None:
        self._frames: list[v1.RawSessionResponse] = []
        self._bytes = 0
        self._wanted: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, number: int, event: bytes, tokens: int) -> None:
        """Say `event` of generation `number`: a serialized GenerationEvent, and its tokens where it is a delta."""
        self._open(len(event)).events.add(id=number, event=event, tokens=tokens)

    def answer(self, number: int, response: bytes) -> None:
        """Say all of generation `number` at once: a serialized GenerateResponse."""
        self._open(len(response)).events.add(id=number, whole=response)

    def end(self, number: int, status: bytes, *, taken: bool = True) -> None:
        """Say that generation `number` has ended with `status`: a serialized google.rpc.Status, empty for OK."""
        self._open(len(status)).events.add(id=number, ended=v1.SessionEnded(status=status, not_taken=not taken))

    def close(self) -> None:
        """Nothing more will be put."""
        self._closed = True
        self._wake()

    async def frames(self) -> AsyncGenerator[bytes]:
        """Yield serialized SessionResponses until the outbox is closed and empty."""
        while True:
            if not self._frames:
                if self._closed:
                    return
                self._wanted = asyncio.get_running_loop().create_future()
                await self._wanted
                continue
            frame = self._frames.pop(0)
            if not self._frames:
                self._bytes = 0
            yield frame.SerializeToString()

    def _open(self, size: int) -> v1.RawSessionResponse:
        """The frame that is filled, with `size` bytes more."""
        if not self._frames or self._bytes + size > MAX_FRAME_BYTES:
            self._frames.append(v1.RawSessionResponse())
            self._bytes = 0
            self._wake()
        self._bytes += size
        return self._frames[-1]

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)
        self._wanted = None

    def __repr__(self) -> str:
        return f"<Outbox {sum(len(frame.events) for frame in self._frames)} events{' closed' * self._closed}>"
