"""The pace of one stream: how long to rest between two pulls, so that the deltas between them come merged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spillway.coalescing import window_end

Window = Callable[[], float]
"""Seconds that deltas may be held back now."""


class Pace:
    """A merging window that the end of the answer cuts short: nothing is gained by holding back the last delta.

    See spillway/coalescing.py for why resting merges.
    """

    __slots__ = ("_due", "_ended", "_loop", "_waiter", "_window")

    def __init__(self, window: Window) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._window = window

    def pulled(self) -> None:
        """Say that something was just pulled: the window begins."""
        now, window = self._loop.time(), self._window()
        self._due = window_end(now, window) if window > 0 else now

    async def rest(self) -> None:
        """Wait out the window, or until the answer has ended."""
        if self._ended or self._due <= self._loop.time():
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(self._due, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def end(self) -> None:
        """Say that the answer has ended: whoever rests is woken, and no one rests again."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<Pace {self._window() * 1000:g} ms{' ended' if self._ended else ''}>"
