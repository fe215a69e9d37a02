"""A deadline is a value on an injected clock."""

from __future__ import annotations

import time
from typing import Protocol

from spillway.record import record


class Clock(Protocol):
    """Monotonic seconds; the zero point means nothing."""

    def __call__(self) -> float: ...


@record
class Deadline:
    """A moment on `clock` past which nothing of a request runs."""

    at: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        """The moment `seconds` from now."""
        return cls(clock() + seconds, clock)

    def left(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at - self.clock())

    @property
    def passed(self) -> bool:
        return self.clock() >= self.at

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        return Deadline(min(self.at, self.clock() + seconds), self.clock)

    def __repr__(self) -> str:
        return f"<Deadline {self.left():.3f} s left>"
