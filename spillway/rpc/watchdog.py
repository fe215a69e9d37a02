"""A timer for silence: one callback per stream, however many messages pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

LATE: Final = 0.25
"""Of the limit: how much later the silence of what is counted is noticed at most."""


class Watchdog:
    """Calls `bark` once when it has watched `limit_s` seconds of silence.

    It starts at rest. `watch` starts counting from now and `rest` stops it; both are plain assignments, so they can
    stand in a hot path. Where even these are too much, `count` tells how much has passed: while it grows, that is no
    silence. It is looked at now and then, `LATE` of the limit later at most.
    """

    __slots__ = ("_bark", "_count", "_handle", "_last", "_loop", "_since", "barked", "limit_s")

    def __init__(self, limit_s: float, bark: Callable[[], object], *, count: Callable[[], int] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._bark = bark
        self._count = count
        self._last = 0 if count is None else count()
        self._since: float | None = None
        self.limit_s = limit_s
        self.barked = False
        self._handle: asyncio.TimerHandle | None = self._loop.call_later(self._look_s, self._look)

    @property
    def _look_s(self) -> float:
        return self.limit_s if self._count is None else self.limit_s * LATE

    def watch(self) -> None:
        """Count silence from now."""
        self._since = self._loop.time()

    def rest(self) -> None:
        """Silence is in order."""
        self._since = None

    def limit(self, limit_s: float) -> None:
        """Count from now, up to another limit."""
        self.stop()
        self.limit_s = limit_s
        self.watch()
        self._handle = self._loop.call_later(self._look_s, self._look)

    def stop(self) -> None:
        """Never bark again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        now = self._loop.time()
        if self._count is not None and (count := self._count()) != self._last:
            self._last = count
            if self._since is not None:
                self._since = now
        due = (now if self._since is None else self._since) + self.limit_s
        if due - now > 1e-3:
            self._handle = self._loop.call_at(min(due, now + self._look_s), self._look)
            return
        self._handle = None
        self.barked = True
        self._bark()

    def __repr__(self) -> str:
        state = "barked" if self.barked else "resting" if self._since is None else "watching"
        return f"<Watchdog {self.limit_s} s {state}>"
