"""Departures: names of targets that are gone, until nothing of them can matter any more. Pure."""

from __future__ import annotations

from collections.abc import Iterable

FORGOTTEN_S = 600.0
"""A target that is back sooner finds its breaker and its series as it left them."""


class Departures:
    """Remembers what was there, and since when it is not."""

    def __init__(self) -> None:
        self._gone: dict[str, float] = {}
        self._there: set[str] = set()

    def past(self, there: Iterable[str], now: float) -> list[str]:
        """Note that `there` is all there is, and return what is to be forgotten."""
        before, self._there = self._there, set(there)
        for name in before - self._there:
            self._gone[name] = now
        for name in self._gone.keys() & self._there:
            del self._gone[name]
        past = [name for name, since in self._gone.items() if now - since >= FORGOTTEN_S]
        for name in past:
            del self._gone[name]
        return past

    def __repr__(self) -> str:
        return f"<Departures {len(self._gone)} gone {len(self._there)} there>"
