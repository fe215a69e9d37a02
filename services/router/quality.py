"""Quality: whether a target's answers are accepted, counted by kind of work and apart from its transport. Pure.

A target whose answers to one kind of work are refused too often is turned off for that kind alone, probed, and switched
back. The kind is the task, or the constraint's digest, so nobody's impossible schema takes a target from others. Each
router counts for itself: a refused answer is replaced before its caller sees it, so probing costs little.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from .bank import Bank
from .breaker import Breaker, Event, Standing
from .breaker_settings import QualitySettings
from .outcome import Outcome


class Quality:
    """The breakers of all kinds of work. A kind dropped for room starts anew."""

    def __init__(self, settings: QualitySettings, draw: Callable[[], float]) -> None:
        self._settings = settings
        self._draw = draw
        self._banks: OrderedDict[str, Bank] = OrderedDict()

    def record(
        self,
        target: str,
        kind: str,
        accepted: bool | None,
        now: float,
        *,
        began: float | None = None,
        probe: int | None = None,
    ) -> tuple[Event, ...]:
        """Count a judged answer; `accepted` None: none came to be judged, which ends a probe and counts for nothing."""
        bank = self._bank(kind)
        outcome = {True: Outcome.ANSWERED, False: Outcome.FAILED, None: Outcome.NEUTRAL}[accepted]
        events = bank.of(target).record(outcome, now, began=began, probe=probe)
        bank.changed(target, now)
        return events

    def standings(self, kind: str, now: float) -> Mapping[str, Standing]:
        """How targets stand for `kind`; those not named are sound."""
        bank = self._banks.get(kind)
        return bank.standings(now) if bank is not None else {}

    def find(self, target: str, kind: str) -> Breaker | None:
        """The breaker of `target` for `kind`, if something is known against it."""
        bank = self._banks.get(kind)
        return bank.find(target) if bank is not None else None

    def forget(self, target: str) -> None:
        """Let go of what is known of `target`."""
        for bank in self._banks.values():
            bank.forget(target)

    def advance(self, now: float) -> list[Event]:
        """Let time pass for all."""
        return [event for bank in self._banks.values() for event in bank.advance(now)]

    def of(self, target: str, now: float) -> Iterator[Breaker]:
        """The breakers of `target`, for every kind that something is known against."""
        for bank in self._banks.values():
            yield from (breaker for breaker in bank.unsound(now) if breaker.target == target)

    def _bank(self, kind: str) -> Bank:
        if kind not in self._banks:
            self._banks[kind] = Bank(lambda target: Breaker(target, self._settings, self._draw, kind))
            if len(self._banks) > self._settings.max_kinds:
                self._banks.popitem(last=False)
        self._banks.move_to_end(kind)
        return self._banks[kind]

    def __repr__(self) -> str:
        return f"<Quality of {len(self._banks)} kinds of work>"
