"""Whether a runtime lives, by what its health says."""

from __future__ import annotations

from dataclasses import dataclass

MISSES = 2
"""Looks at its health that fail in a row before a runtime that can be reached counts as ill."""


@dataclass(slots=True)
class Pulse:
    """What is known of one runtime's health."""

    why: str = ""
    """What ails it; empty: nothing."""
    _misses: int = 0

    def well(self) -> bool:
        """Say that its health is good; return whether that is news."""
        news, self.why, self._misses = bool(self.why), "", 0
        return news

    def missed(self, why: str, *, gone: bool, busy: bool) -> bool:
        """Say that its health was bad, or not told in time; return whether that is news.

        `gone`: nobody listens there. `busy`: it only took too long, and it has work of ours: many of them answer one
        request after the other, and whether such an answer still goes on is watched elsewhere.
        """
        if busy:
            return False
        self._misses += 1
        if not gone and self._misses < MISSES:
            return False
        news, self.why = why != self.why, why
        return news

    def __repr__(self) -> str:
        return f"<Pulse {self.why or 'well'} {self._misses} misses>"
