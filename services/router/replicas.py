"""Replicas: targets that a request may as well be answered by, and which of them it goes to. Pure.

Those are replicas that policy ranks alike and that serve the same (kind, tier, model, weights). Among them

- who has no place free (`concurrency`) comes after those who have;
- a session stays with one of them, found by rendezvous hashing, where its prefix is in the cache; it leaves that one
  alone while it is clearly busier than the least busy one, and comes back afterwards;
- else the less busy comes first, and among equals the first declared.

A load that is unknown is not zero: such a replica counts as busy as those that are known are on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import groupby

from spillway.record import record

from .plan import Candidate

CLEARLY_TIMES, CLEARLY_MORE = 2.0, 2.0
"""Clearly busier: more than twice as many requests as the least busy one has, and two besides."""


@record
class Occupancy:
    """How busy a target is. `in_flight`: attempts of this router, those that wait for a place included.

    `engine` is how many requests the target itself has, as it last said, corrected by what this router has done since;
    None: unknown.
    """

    in_flight: int = 0
    engine: float | None = None
    full: bool = False


IDLE: Mapping[str, Occupancy] = {}
"""Nothing is known of any target, and nothing is on its way to one."""
_UNKNOWN = Occupancy()


def spread(ranked: Sequence[Candidate], loads: Mapping[str, Occupancy], session: str) -> list[Candidate]:
    """Return `ranked` candidates, best first, with replicas in the order in which they are to be tried."""
    if len(ranked) < 2 or not (loads or session):
        return list(ranked)
    found: list[Candidate] = []
    for _, group in groupby(ranked, _rank):
        replicas = list(group)
        found += replicas if len(replicas) == 1 else _ordered(replicas, loads, session)
    return found


def _rank(candidate: Candidate) -> tuple[float, str, str, str, str]:
    target = candidate.target
    return candidate.score, target.kind, target.tier, target.model, target.weights


def _ordered(replicas: list[Candidate], loads: Mapping[str, Occupancy], session: str) -> list[Candidate]:
    occupied = {one.target.name: loads.get(one.target.name, _UNKNOWN) for one in replicas}
    known = [one.engine for one in occupied.values() if one.engine is not None]
    average = sum(known) / len(known) if known else 0.0
    busy = {name: max(one.in_flight, average if one.engine is None else one.engine) for name, one in occupied.items()}
    ordered = sorted(replicas, key=lambda one: (occupied[one.target.name].full, busy[one.target.name]))
    if session:
        home = max(replicas, key=lambda one: _affinity(session, one.target.name))
        least, here = busy[ordered[0].target.name], busy[home.target.name]
        if not occupied[home.target.name].full and here <= CLEARLY_TIMES * least + CLEARLY_MORE:
            ordered.remove(home)
            ordered.insert(0, replace(home, reasons=(*home.reasons, "its session goes here")))
    return ordered


def _affinity(session: str, name: str) -> bytes:
    return blake2b(f"{session}\0{name}".encode(), digest_size=8).digest()
