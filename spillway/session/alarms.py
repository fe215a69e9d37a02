"""The deadlines of one session's generations, by one timer of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

Kind = TypeVar("Kind")

SPARE: Final = 64
"""Deadlines of what has ended already that are kept at least before they are looked through."""
LEAST_S: Final = 0.001
"""Of a timer: uvloop's have whole milliseconds, and none of 0 (it makes a handle that knows no time)."""


class Alarms(Generic[Kind]):
    """Calls `ring` with each of `living` whose time is up, never before, found by its number, never given twice.

    Nearly all end before: a timer of the loop for each, made and cancelled, costs fifteen function calls.
    """

    def __init__(self, living: Mapping[int, Kind], ring: Callable[[Kind], object]) -> None:
        self._living = living
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        """What the timer is wound up for."""

    def add(self, number: int, seconds: float) -> None:
        """Ring for `number` in so many seconds, if it lives then."""
        due = time.monotonic() + seconds  # the clock of deadlines: that of the loop may lag behind it
        if len(self._due) > 2 * len(self._living) + SPARE:
            self._due = [each for each in self._due if each[1] in self._living]
            heapify(self._due)
        heappush(self._due, (due, number))
        if self._timer is None or due < self._next:
            self._wind()

    def stop(self) -> None:
        """Ring no more."""
        self._due.clear()
        self._wind()

    def _wind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            self._next = self._due[0][0]
            self._timer = self._loop.call_later(max(LEAST_S, self._next - time.monotonic()), self._look)

    def _look(self) -> None:
        now = time.monotonic()
        while self._due and (self._due[0][0] <= now or self._due[0][1] not in self._living):
            due, number = heappop(self._due)
            if due <= now and (one := self._living.get(number)) is not None:
                self._ring(one)
        self._wind()

    def __repr__(self) -> str:
        return f"<Alarms {len(self._due)} for {len(self._living)}>"
