"""A timer for silence: one callback per stream, however many messages pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Calls `bark` once when it has watched `limit_s` seconds of silence.

    It starts at rest. `watch` starts counting from now and `rest` stops it; both are plain assignments, so they can
    stand in a hot path.
    """

    __slots__ = ("_bark", "_handle", "_loop", "_since", "barked", "limit_s")

    def __init__(self, limit_s: float, bark: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._bark = bark
        self._since: float | None = None
        self._handle: asyncio.TimerHandle | None = self._loop.call_later(limit_s, self._look)
        self.limit_s = limit_s
        self.barked = False

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
        self._handle = self._loop.call_later(limit_s, self._look)

    def stop(self) -> None:
        """Never bark again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        now = self._loop.time()
        due = (now if self._since is None else self._since) + self.limit_s
        if due - now > 1e-3:
            self._handle = self._loop.call_at(due, self._look)
            return
        self._handle = None
        self.barked = True
        self._bark()

    def __repr__(self) -> str:
        state = "barked" if self.barked else "resting" if self._since is None else "watching"
        return f"<Watchdog {self.limit_s} s {state}>"
