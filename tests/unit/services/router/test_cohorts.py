"""Of a large fleet a request looks at a few of each kind."""

from __future__ import annotations

from services.router.cohorts import LOOKED_AT, Cohorts
from services.router.target import Target

FLEET = [Target(f"t{at}", "local", f"n{at}:1", model=f"m{at % 4}") for at in range(2000)]
LARGE = Cohorts(FLEET)


def names(start: float = 0.0, named: tuple[str, ...] = (), avoid: frozenset[str] = frozenset()) -> list[str]:
    return [target.name for target in LARGE.shortlist(named, avoid, start)]


def test_a_fleet_that_is_not_large_is_looked_at_whole() -> None:
    targets = FLEET[:LOOKED_AT]
    assert list(Cohorts(targets).shortlist((), (), 0.7)) == targets


def test_every_cohort_is_looked_at_and_no_more_than_fit() -> None:
    found = names()
    assert len(found) == LOOKED_AT
    assert {int(name[1:]) % 4 for name in found} == {0, 1, 2, 3}
    assert found == sorted(found, key=lambda name: int(name[1:]))


def test_requests_spread_over_the_whole_fleet_and_a_number_keeps_its_few() -> None:
    seen = {name for at in range(100) for name in names(at / 100)}
    assert len(seen) == len(FLEET)
    assert names(0.999) == names(0.999)


def test_a_target_that_is_named_is_looked_at() -> None:
    assert "t1999" in names(named=("t1999", "no such target"))


def test_sick_targets_are_passed_over_where_their_cohort_has_others() -> None:
    first = frozenset(names())
    assert first.isdisjoint(names(avoid=first))
    everything = frozenset(target.name for target in FLEET)
    assert len(names(avoid=everything)) == LOOKED_AT


def test_more_kinds_than_fit_are_looked_at_one_of_each() -> None:
    varied = Cohorts(Target(f"t{at}", "local", f"n{at}:1", model=f"m{at % 500}") for at in range(2000))
    assert len({target.model for target in varied.shortlist((), (), 0.3)}) == 500


def test_replicas_that_are_named_together_are_looked_at_though_not_all_of_them() -> None:
    shared = [Target(f"local@n{at}:1", "local", f"n{at}:1", replica_of="local") for at in range(1000)]
    found = Cohorts([*FLEET, *shared]).shortlist(["local"], (), 0.5)
    assert sum(target.replica_of == "local" for target in found) == LOOKED_AT
    assert len(found) <= 2 * LOOKED_AT
