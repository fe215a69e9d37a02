"""A bank of breakers: one per target, made when something is first told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .breaker import Breaker, Event, Standing


class Bank:
    """Looks only at those that are not sound, so that thousands of healthy targets cost nothing."""

    def __init__(self, make: Callable[[str], Breaker]) -> None:
        self._make = make
        self._breakers: dict[str, Breaker] = {}
        self._unsound: set[str] = set()

    def of(self, target: str) -> Breaker:
        """The breaker of `target`; for changing it. Whoever does calls `changed`."""
        if target not in self._breakers:
            self._breakers[target] = self._make(target)
        return self._breakers[target]

    def changed(self, target: str, now: float) -> None:
        """Note that the breaker of `target` may no longer be sound."""
        if not self._breakers[target].sound(now):
            self._unsound.add(target)

    def forget(self, target: str) -> None:
        """Let go of what is known of `target`."""
        self._breakers.pop(target, None)
        self._unsound.discard(target)

    def unsound(self, now: float) -> Iterator[Breaker]:
        """Those that something is known against."""
        for target in list(self._unsound):
            breaker = self._breakers[target]
            if breaker.sound(now):
                self._unsound.discard(target)
            else:
                yield breaker

    def find(self, target: str) -> Breaker | None:
        """The breaker of `target` if something is known against it."""
        return self._breakers[target] if target in self._unsound else None

    def standings(self, now: float) -> dict[str, Standing]:
        """How those targets stand that something is known against."""
        return {breaker.target: breaker.standing(now) for breaker in self.unsound(now)} if self._unsound else {}

    def advance(self, now: float) -> list[Event]:
        """Let time pass for all."""
        return [event for breaker in self.unsound(now) for event in breaker.advance(now)]

    def __repr__(self) -> str:
        return f"<Bank {len(self._unsound)} of {len(self._breakers)} unsound>"
