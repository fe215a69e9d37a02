"""The line of calls that wait for a lease in one engine. Pure: a moment in, a decision out.

Interactive calls before background ones, each in the order they came. The wait is estimated from how long holds last
and how many engines wait besides; it is a guess, so it only ever refuses what has to wait, and nothing is known before
the first hold has ended.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from spillway.errors import TargetBusy

WEIGHT = 0.2
"""Of the last hold in the mean time one lasts."""
RETRY_S = (0.05, 60.0)
"""Least and most that who is sent away is told to wait."""
UNKNOWN_RETRY_S = 1.0


@dataclass(slots=True, eq=False)
class Ticket:
    """A call's place. `token` is its own; `since` when it came, monotonic seconds."""

    token: str
    request_id: str
    background: bool
    since: float

    def __repr__(self) -> str:
        return f"<Ticket {self.request_id} {'background' if self.background else 'interactive'}>"


class Line:
    """Places for at most `places` calls before `slots`; `name` is what errors call the lease."""

    def __init__(self, name: str, *, places: int, slots: int) -> None:
        self._name = name
        self._places = places
        self._slots = slots
        self._lanes: tuple[OrderedDict[Ticket, None], OrderedDict[Ticket, None]] = (OrderedDict(), OrderedDict())
        self._held_s: float | None = None
        self.inside = 0
        """Slots that this engine holds."""
        self.beside = 0
        """Other engines that wait, as last seen."""

    def __len__(self) -> int:
        return sum(map(len, self._lanes))

    @property
    def head(self) -> Ticket | None:
        """Who is next."""
        return next((ticket for lane in self._lanes for ticket in lane), None)

    def join(self, ticket: Ticket, allowed_s: float) -> None:
        """Take a place, to wait `allowed_s` at most. Raises TargetBusy where the line is full, or too slow for that."""
        wait_s = self.wait_s(ticket.background)
        # Who need not wait is not in the line for long: a free slot must not be refused for the length of it.
        if len(self) >= max(self._places, self._slots - self.inside):
            raise self.busy(f"{len(self)} calls wait already")
        if wait_s is not None and wait_s > allowed_s:
            raise self.busy(f"the wait would be about {wait_s:.1f} s, more than the {allowed_s:.1f} s allowed")
        self._lanes[ticket.background][ticket] = None

    def leave(self, ticket: Ticket) -> bool:
        """Give the place up, as it is called or goes away; whether it was there."""
        lane = self._lanes[ticket.background]
        if ticket not in lane:
            return False
        del lane[ticket]
        return True

    def ended(self, held_s: float) -> None:
        """A hold has ended."""
        self._held_s = held_s if self._held_s is None else (1 - WEIGHT) * self._held_s + WEIGHT * held_s

    def wait_s(self, background: bool) -> float | None:
        """Seconds that a call which came now would wait; 0 for none, None: unknown."""
        ahead = len(self) if background else len(self._lanes[False])
        if not ahead and self.inside < self._slots:  # trying is better than guessing
            return 0.0
        return self._turn_s(ahead)

    def busy(self, why: str) -> TargetBusy:
        """Return the error for a call that does not get the lease in time.

        It says when an interactive call would, whoever is sent away: so long a router sends nobody here.
        """
        least, most = RETRY_S
        turn_s = self._turn_s(len(self._lanes[False]))
        return self.shut(why, UNKNOWN_RETRY_S if turn_s is None else min(most, max(least, turn_s)))

    def shut(self, why: str, retry_s: float = UNKNOWN_RETRY_S) -> TargetBusy:
        """Return the error for a call that does not get the lease, whoever else has it."""
        return TargetBusy(f"lease {self._name}: {why}", retry_after_s=retry_s, resource=self._name)

    def _turn_s(self, ahead: int) -> float | None:
        """Seconds until a call with so many `ahead` has its turn, where no slot is free; None: unknown."""
        if self._held_s is None:
            return None
        return (ahead + 1) * (1 + self.beside) * self._held_s / self._slots

    def __repr__(self) -> str:
        return f"<Line {self._name} {self.inside} inside {len(self)} waiting>"
