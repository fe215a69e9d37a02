"""A clock moved by hand."""

from __future__ import annotations


class HandClock:
    """A `Clock` that stands still until `advance` is called."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def __repr__(self) -> str:
        return f"<HandClock {self.now}>"
