"""How long no session is opened after some have broken one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0
STEADY_S: Final = 10.0
"""A session that lasted so long was a good one, however it broke."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """`failures` in a row, and until when on the clock none is tried again."""

    failures: int = 0
    until: float = 0.0

    def after(self, lasted_s: float, now: float, chance: float) -> Backoff:
        """Return the backoff after another failure, of a session that lasted `lasted_s` seconds.

        The time doubles with each failure; `chance`, from 0 to 1, leaves between half of it and all.
        """
        failures = 1 if lasted_s >= STEADY_S else self.failures + 1
        delay_s = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 20))
        return Backoff(failures, now + delay_s * (1 + chance) / 2)

    def over(self, now: float) -> bool:
        """Whether a session may be opened."""
        return not self.failures or now >= self.until
