"""For how long a lease is held, by this process's own clock. Pure: a moment in, what is to be done out.

A hold is reckoned from when its last renewal was sent, not answered, so it never ends later here than on the store; and
`cancel_s` earlier, so that the runtime has ended the call by then.
"""

from __future__ import annotations

from dataclasses import dataclass

from .lease_settings import LeaseSettings

AGAIN_S = 1.0
"""Longest pause after a renewal that the store did not answer."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing is to be done for `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Renew:
    """The store is to be told now."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The call must end now. `why`: expired, held_longest, gone, ended (by an operator), crashed."""

    why: str


Step = Rest | Renew | Lost


class Tenure:
    """One hold. `since` and all `now` are monotonic seconds."""

    def __init__(self, settings: LeaseSettings, fencing: int, since: float, *, alone: bool = False) -> None:
        self.fencing = fencing
        self.since = since
        self.alone = alone
        """Held in this process only: the store is away, and by the settings that will do."""
        self._settings = settings
        self._till = since + settings.ttl_s
        self._due = since + settings.renew_s
        self._lost: Lost | None = None

    def next(self, now: float) -> Step:
        """What is to be done at `now`. Once lost, it stays lost."""
        if self._lost is None:
            if now >= self._last:
                self._lost = Lost("held_longest")
            elif not self.alone and now >= self._till - self._settings.cancel_s:
                if self._settings.without_store == "local":
                    self.alone = True
                else:
                    self._lost = Lost("expired")
        if self._lost is not None:
            return self._lost
        if self.alone:
            return Rest(self._last - now)
        if now >= self._due:
            return Renew()
        return Rest(min(self._due, self._till - self._settings.cancel_s, self._last) - now)

    def renewed(self, sent: float, left_s: float) -> None:
        """A renewal sent at `sent` was answered: held `left_s` seconds from then; 0: gone, less: it is wanted back.

        What was lost before the answer came stays lost.
        """
        if left_s <= 0:
            self._lost = self._lost or Lost("gone" if left_s == 0 else "ended")
            return
        self._till = sent + left_s
        self._due = sent + self._settings.renew_s

    def missed(self, now: float) -> None:
        """The store did not answer."""
        self._due = now + min(AGAIN_S, self._settings.renew_s)

    def hurry(self, now: float) -> None:
        """There is news: ask the store now."""
        self._due = min(self._due, now)

    def lose(self, why: str) -> None:
        """It cannot be kept any more."""
        self._lost = self._lost or Lost(why)

    @property
    def _last(self) -> float:
        return self.since + self._settings.max_hold_s - self._settings.cancel_s

    def __repr__(self) -> str:
        state = f"lost {self._lost.why}" if self._lost is not None else "alone" if self.alone else "held"
        return f"<Tenure {self.fencing} {state}>"
