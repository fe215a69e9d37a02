"""Whose turn it is among those who wait for a provider's limits. Pure.

Interactive calls are before background ones, except that every tenth turn is background's, which so never starves. In
both, tenants share by weight (start-time fair queueing, Goyal et al. 1996): each call weighs the share it takes of the
limit it burdens most, and who has had least is next. A tenant's own calls go in the order they came.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

BACKGROUND_SHARE = 0.1
LEAST_WEIGHT = 1e-6


@dataclass(slots=True, eq=False)
class Turn:
    """One call that waits; `scopes` are those whose limits hold for it."""

    tenant: str
    background: bool
    scopes: frozenset[str]
    weight: float

    def __repr__(self) -> str:
        return f"<Turn {self.tenant} {'background' if self.background else 'interactive'}>"


@dataclass(slots=True)
class Queue:
    """The calls of one priority."""

    by_tenant: dict[str, OrderedDict[Turn, None]] = field(default_factory=dict)
    had: dict[str, float] = field(default_factory=dict)
    """What each tenant has had, in virtual time."""
    time: float = 0.0

    def next(self, held: Collection[str]) -> Turn | None:
        """The call in turn that no scope of `held` holds."""
        for tenant in sorted(self.by_tenant, key=lambda tenant: max(self.time, self.had.get(tenant, 0.0))):
            for turn in self.by_tenant[tenant]:
                if turn.scopes.isdisjoint(held):
                    return turn
        return None

    def serve(self, turn: Turn) -> None:
        self.time = max(self.time, self.had.get(turn.tenant, 0.0))
        self.had[turn.tenant] = self.time + max(LEAST_WEIGHT, turn.weight)
        self.drop(turn)
        self.had = {tenant: had for tenant, had in self.had.items() if had > self.time or tenant in self.by_tenant}

    def drop(self, turn: Turn) -> None:
        turns = self.by_tenant.get(turn.tenant, OrderedDict())
        turns.pop(turn, None)
        if not turns:
            self.by_tenant.pop(turn.tenant, None)


class Turns:
    """All calls that wait for one provider."""

    def __init__(self) -> None:
        self._interactive, self._background = Queue(), Queue()
        self._credit = 0.0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, turn: Turn) -> None:
        self._queue(turn).by_tenant.setdefault(turn.tenant, OrderedDict())[turn] = None
        self._count += 1

    def leave(self, turn: Turn) -> None:
        """It waits no more, and has had nothing."""
        if self._waits(turn):
            self._queue(turn).drop(turn)
            self._count -= 1

    def next(self, held: Collection[str] = ()) -> Turn | None:
        """The call in turn that no scope of `held` holds; the same again until it is served or leaves."""
        for queue in self._in_order():
            if (turn := queue.next(held)) is not None:
                return turn
        return None

    def serve(self, turn: Turn) -> None:
        """It has what it waited for."""
        if not self._waits(turn):
            return
        others = self._interactive if turn.background else self._background
        if others.by_tenant:  # both wait: what is background's is counted
            self._credit = max(0.0, self._credit - 1) if turn.background else self._credit + BACKGROUND_SHARE
        self._queue(turn).serve(turn)
        self._count -= 1

    def _in_order(self) -> Iterator[Queue]:
        first = self._credit + BACKGROUND_SHARE >= 1 - 1e-9
        yield self._background if first else self._interactive
        yield self._interactive if first else self._background

    def _queue(self, turn: Turn) -> Queue:
        return self._background if turn.background else self._interactive

    def _waits(self, turn: Turn) -> bool:
        return turn in self._queue(turn).by_tenant.get(turn.tenant, ())

    def __repr__(self) -> str:
        return f"<Turns {self._count} waiting>"
