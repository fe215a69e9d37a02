"""Whether a runtime lives: by its health, and by the answers that come from it."""

from __future__ import annotations

from dataclasses import dataclass

MISSES = 2
"""Looks at its health that fail in a row before a runtime that can be reached counts as ill."""


@dataclass(slots=True)
class Pulse:
    """A runtime that computes may be too busy to tell its health: what it says within answers counts as well."""

    patience_s: float
    """How long what was heard within an answer vouches for it."""
    why: str = ""
    """What ails it; empty: nothing."""
    _misses: int = 0
    _heard_at: float = float("-inf")

    def heard(self, now: float) -> None:
        """Say that part of an answer came."""
        self._heard_at = now

    def well(self) -> bool:
        """Say that its health is good; return whether that is news."""
        news, self.why, self._misses = bool(self.why), "", 0
        return news

    def missed(self, why: str, now: float, *, gone: bool) -> bool:
        """Say that its health could not be told, or was bad; `gone`: nobody listens. Return whether that is news."""
        self._misses += 1
        if not gone and (self._misses < MISSES or now - self._heard_at < self.patience_s):
            return False
        news, self.why = why != self.why, why
        return news

    def __repr__(self) -> str:
        return f"<Pulse {self.why or 'well'} {self._misses} misses>"
