"""Quotas: what cloud proxies last told of their targets' limits, and who has room for a request. Pure.

It is advice. Who has no room is asked after those who have, and still before nobody: the proxy itself decides, and may
wait. What is not told is unknown, and unknown is not zero: such a target has room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from .facts import Facts
from .plan import Candidate
from .target import Target

_OF_THE_PROMPT = frozenset({"tokens_per_minute", "input_tokens_per_minute"})
_WORDS = {"concurrency": "calls at once", "nano_usd_per_day": "nano-USD per day"}


@dataclass(frozen=True, slots=True)
class Allowance:
    """One limit. `name` as in the contract's RateLimit; `remaining` None: unknown."""

    name: str
    limit: int
    remaining: int | None
    free_at: float | None = None
    """When something of it becomes free again; None: unknown."""

    def objection(self, prompt_tokens: int, now: float) -> str:
        """Why a request has no room in it, or an empty string."""
        needs = prompt_tokens if self.name in _OF_THE_PROMPT else 1
        if self.remaining is None or self.remaining >= max(1, needs):
            return ""
        what = _WORDS.get(self.name, self.name.replace("_", " "))
        left = f"{self.remaining} of {self.limit} {what} left"
        if self.remaining:
            return f"{left} for about {needs} tokens of the prompt"
        wait_s = 0.0 if self.free_at is None else self.free_at - now
        return f"{left}, for {ceil(wait_s)} s more" if wait_s > 0 else left


@dataclass(frozen=True, slots=True)
class Quota:
    """What was told of one target; it holds until something else is. Times are of the router's clock, in seconds."""

    allowances: tuple[Allowance, ...] = ()
    closed_until: float | None = None
    closed_why: str = ""
    """Reason of the error that closed it."""

    def objection(self, prompt_tokens: int, now: float) -> str:
        """Why a request has no room there, or an empty string: it has, as far as is known."""
        if self.closed_until is not None and now < self.closed_until:
            why = f": {self.closed_why}" if self.closed_why else ""
            return f"closed for {ceil(self.closed_until - now)} s more{why}"
        for each in self.allowances:
            if why := each.objection(prompt_tokens, now):
                return why
        return ""


UNKNOWN = Quota()
UNTOLD: Mapping[str, Quota] = {}
"""Nothing is known of any target."""


class Quotas:
    """The last word on each target, by name."""

    def __init__(self) -> None:
        self._told: dict[str, Quota] = {}

    def snapshot(self) -> Mapping[str, Quota]:
        """What is known now, by target. Not to be kept."""
        return self._told

    def hear(self, name: str, quota: Quota) -> None:
        self._told[name] = quota

    def lose(self, targets: Iterable[Target]) -> None:
        """What was told of these is known no more."""
        for target in targets:
            self._told.pop(target.name, None)

    def __repr__(self) -> str:
        return f"<Quotas {len(self._told)} targets>"


def with_room_first(
    ranked: Sequence[Candidate],
    quotas: Mapping[str, Quota],
    facts: Facts,
    now: float,
    spread: Callable[[Sequence[Candidate]], list[Candidate]],
) -> list[Candidate]:
    """Return `ranked` candidates, best first, those without room last and with the reason; else as they were.

    `spread` orders those who have room, and those who have not, among themselves.
    """
    if not quotas:
        return spread(ranked)
    tokens = facts.prompt_tokens + facts.beside_tokens
    roomy: list[Candidate] = []
    crowded: list[Candidate] = []
    for candidate in ranked:
        quota = quotas.get(candidate.target.name)
        why = quota.objection(tokens, now) if quota is not None else ""
        if why:
            crowded.append(_told(candidate, f"though it has no room: {why}"))
        else:
            roomy.append(candidate)
    if not crowded:
        return spread(ranked)
    found = [*spread(roomy), *spread(crowded)]
    if roomy and ranked[0].target is crowded[0].target:
        found[0] = _told(found[0], f"as {ranked[0].target.name} has no room")
    return found


def _told(candidate: Candidate, why: str) -> Candidate:
    first, *others = candidate.reasons
    return replace(candidate, reasons=(f"{first}, {why}", *others))
