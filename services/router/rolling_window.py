"""How many of the latest events were marked. Pure, with `now` handed in."""

from __future__ import annotations

from collections import deque

BUCKETS = 12


class RollingWindow:
    """Counts over the last `seconds`, forgotten bucket by bucket: an event counts for 11/12 of it at least."""

    def __init__(self, seconds: float) -> None:
        self._width_s = seconds / BUCKETS
        self._buckets: deque[list[int]] = deque()  # number, total, marked
        self.total = 0
        self.marked = 0

    def add(self, now: float, *, total: int = 0, marked: int = 0) -> None:
        """Count events; `marked` ones are counted apart, and among `total` only if they are given there too."""
        self.forget(now)
        number = int(now // self._width_s)
        if not self._buckets or self._buckets[-1][0] < number:
            self._buckets.append([number, 0, 0])
        self._buckets[-1][1] += total
        self._buckets[-1][2] += marked
        self.total += total
        self.marked += marked

    def forget(self, now: float) -> None:
        """Drop what has left the window."""
        oldest = int(now // self._width_s) - BUCKETS
        while self._buckets and self._buckets[0][0] <= oldest:
            _, total, marked = self._buckets.popleft()
            self.total -= total
            self.marked -= marked

    def clear(self) -> None:
        self._buckets.clear()
        self.total = self.marked = 0

    def __repr__(self) -> str:
        return f"<RollingWindow {self.marked}/{self.total}>"
