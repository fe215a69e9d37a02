"""Cohorts: targets that differ in name and address alone. What policy thinks of one it thinks of all. Pure.

A fleet of thousands has a handful of them, so a decision costs what the handful costs. Of a large cohort a request
looks at a window, which begins at its own place: requests spread over all of it, and a session keeps its window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .target import Target

WINDOW = 64
"""Most targets of a cohort that one request looks at, and most that a plan takes: nobody tries more in one deadline."""


@dataclass(frozen=True, slots=True)
class Member:
    """A target and its place in the policy."""

    place: int
    target: Target


@dataclass(frozen=True, slots=True)
class Cohort:
    """Members in the order of the policy."""

    members: tuple[Member, ...]
    names: frozenset[str]

    @property
    def like(self) -> Target:
        """One of them, for all."""
        return self.members[0].target

    def window(self, start: float) -> tuple[Member, ...]:
        """The members that a request looks at whose own number, in [0, 1), is `start`."""
        if len(self.members) <= WINDOW:
            return self.members
        first = int(start * len(self.members))
        members = self.members[first : first + WINDOW]
        return members + self.members[: WINDOW - len(members)]


class Cohorts:
    """All targets of a policy."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self.targets = tuple(targets)
        found: dict[Target, list[Member]] = {}
        for place, target in enumerate(self.targets):
            found.setdefault(replace(target, name="", address=""), []).append(Member(place, target))
        self._cohorts = tuple(
            Cohort(tuple(members), frozenset(member.target.name for member in members)) for members in found.values()
        )
        windows = [one.context_window for one in found if one.local and one.context_window is not None]
        self.least_local_window = min(windows, default=None)
        """The smallest context window of a local target, in tokens; None where none is known."""

    def apart(self, names: frozenset[str]) -> Iterator[Cohort]:
        """Yield the cohorts, with each target of `names`, which a request speaks of by name, as one of its own."""
        for cohort in self._cohorts:
            named = cohort.names & names
            if not named or len(cohort.members) == 1:
                yield cohort
                continue
            for member in cohort.members:
                if member.target.name in named:
                    yield Cohort((member,), frozenset({member.target.name}))
            rest = tuple(member for member in cohort.members if member.target.name not in named)
            if rest:
                yield Cohort(rest, cohort.names - named)

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"<Cohorts {len(self._cohorts)} of {len(self.targets)} targets>"
