"""Seats: how many background answers run at once, so that an interactive one finds a place.

An engine gives a free seat to whoever has the higher priority, but takes none away from an answer that has begun:
with background answers in all of them the next interactive one would wait until one ends.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Seats:
    """`seats` of an engine, of which background answers leave the share `kept` free; one alone is everybody's."""

    def __init__(self, seats: int, kept: float) -> None:
        self.background = max(1, seats - math.ceil(seats * kept))
        """Background answers that run at once."""
        self._free = asyncio.Semaphore(self.background)
        self.waiting = 0
        """Background answers that wait here, before the engine knows of them."""

    @asynccontextmanager
    async def taken(self, *, background: bool) -> AsyncIterator[None]:
        """Have a seat for the block; a background answer waits for its turn, first come, first served."""
        if not background:
            yield
            return
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._free.release()

    def __repr__(self) -> str:
        return f"<Seats {self.background} for background answers, {self.waiting} waiting>"
