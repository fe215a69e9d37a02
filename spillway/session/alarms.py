"""The deadlines of one session's generations, by one timer of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

Kind = TypeVar("Kind")

SPARE: Final = 64
"""Deadlines of what has ended already that are kept at least before they are looked through."""


class Alarms(Generic[Kind]):
    """Calls `ring` with each of `living` whose time is up, found by its number, which is never given twice.

    Nearly all end before: a timer of the loop for each, made and cancelled, costs fifteen function calls.
    """

    def __init__(self, living: Mapping[int, Kind], ring: Callable[[Kind], object]) -> None:
        self._living = living
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, number: int, seconds: float) -> None:
        """Ring for `number` in so many seconds, if it lives then."""
        due = self._loop.time() + seconds
        if len(self._due) > 2 * len(self._living) + SPARE:
            self._due = [each for each in self._due if each[1] in self._living]
            heapify(self._due)
        heappush(self._due, (due, number))
        if self._timer is None or due < self._timer.when():
            self._wind()

    def stop(self) -> None:
        """Ring no more."""
        self._due.clear()
        self._wind()

    def _wind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._due[0][0], self._look) if self._due else None

    def _look(self) -> None:
        now = self._loop.time() + 1e-6  # timers of the loop may come early, by its clock's resolution
        while self._due and (self._due[0][0] <= now or self._due[0][1] not in self._living):
            due, number = heappop(self._due)
            if due <= now and (one := self._living.get(number)) is not None:
                self._ring(one)
        self._wind()

    def __repr__(self) -> str:
        return f"<Alarms {len(self._due)} for {len(self._living)}>"
