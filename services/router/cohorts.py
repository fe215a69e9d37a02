"""Cohorts: targets that differ in name and address alone. What policy thinks of one it thinks of all. Pure.

A request to a large fleet looks at a few of each cohort, beginning at its own place: requests spread over all of it, a
session keeps its few, and a decision costs no more than one over `LOOKED_AT` targets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

from .target import Target

LOOKED_AT = 256
"""Fleets up to this size are looked at whole."""


class Cohorts:
    """All targets of a policy, in its order."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self.targets = tuple(targets)
        self._places = {target.name: place for place, target in enumerate(self.targets)}
        found: dict[Target, list[int]] = {}
        for place, target in enumerate(self.targets):
            found.setdefault(replace(target, name="", address=""), []).append(place)
        self._cohorts = tuple(found.values())
        self._replicas: dict[str, list[int]] = {}
        for place, target in enumerate(self.targets):
            if target.replica_of:
                self._replicas.setdefault(target.replica_of, []).append(place)

    def shortlist(self, named: Iterable[str], avoid: Collection[str], start: float) -> Sequence[Target]:
        """Return the targets that a request looks at, in the policy's order.

        Those `named` are among them, of replicas that share a name some; those to `avoid` only where their cohort has
        no others. `start` is the request's own number, in [0, 1).
        """
        if len(self.targets) <= LOOKED_AT:
            return self.targets
        few = max(1, LOOKED_AT // len(self._cohorts))
        named = set(named)
        places = {self._places[name] for name in named if name in self._places}
        shared = [self._replicas[name] for name in named if name in self._replicas]
        for replicas in shared:
            places.update(islice(self._from(replicas, start, avoid), max(few, LOOKED_AT // len(shared))))
        for cohort in self._cohorts:
            places.update(islice(self._from(cohort, start, avoid), few))
        return [self.targets[place] for place in sorted(places)]

    def _from(self, cohort: list[int], start: float, avoid: Collection[str]) -> Iterator[int]:
        first = int(start * len(cohort))
        turned = chain(islice(cohort, first, None), islice(cohort, first))
        if not avoid:
            return turned
        places = list(turned)
        sound = [place for place in places if self.targets[place].name not in avoid]
        return iter(sound or places)

    def __repr__(self) -> str:
        return f"<Cohorts {len(self._cohorts)} of {len(self.targets)} targets>"
