"""What one stream has to say to its caller: events that were made for it, and deltas that went by."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from spillway import v1
from spillway.rpc.lane import Lane

MAX_WAITING: Final = 16
"""Of events that a slow reader has not taken; beyond that no more are made."""


class Outflow:
    """Events in the order they come, by `lane` and from who makes the others."""

    def __init__(self) -> None:
        self._waiting: deque[v1.GenerationEvent | bytes] = deque()
        self.lane = Lane(self._put, MAX_WAITING)
        self._wanted: asyncio.Future[None] | None = None
        self._taken = asyncio.Event()

    async def events(self, made: AsyncGenerator[v1.GenerationEvent]) -> AsyncGenerator[v1.GenerationEvent | bytes]:
        """Yield what is `made` and what passes by, as long as anything is made; raise what ends it."""
        making = asyncio.create_task(self._make(made), name="outflow")
        making.add_done_callback(lambda _: self._wake())
        try:
            while True:
                if self._waiting:
                    self.lane.credit += 1
                    self._taken.set()
                    yield self._waiting.popleft()
                elif making.done():
                    making.result()
                    return
                else:
                    self._wanted = asyncio.get_running_loop().create_future()
                    await self._wanted
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)  # who has left is told no error
            self.lane = Lane()  # the other one knows this: a cycle that would wait for the garbage collector

    async def _make(self, made: AsyncGenerator[v1.GenerationEvent]) -> None:
        async with aclosing(made) as events:
            async for event in events:
                while not self.lane.credit:
                    self._taken.clear()
                    await self._taken.wait()
                self.lane.credit -= 1
                self._put(event)

    def _put(self, event: v1.GenerationEvent | bytes, tokens: int = 0) -> None:
        self._waiting.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def __repr__(self) -> str:
        return f"<Outflow {len(self._waiting)} events waiting>"
