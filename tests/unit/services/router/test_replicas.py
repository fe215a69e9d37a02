"""Which of several replicas a request goes to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from services.router.plan import Candidate
from services.router.replicas import Occupancy, spread
from services.router.target import Target

NAMES = ("r0", "r1", "r2")


def candidate(name: str, score: float = 200.0, *, model: str = "", weights: str = "", tier: str = "small") -> Candidate:
    target = Target(name, "local", "a:1", model=model, weights=weights, tier=tier)
    return Candidate(target, ("local first",), score)


REPLICAS = [candidate(name) for name in NAMES]


def order(loads: dict[str, Occupancy], session: str = "", *ranked: Candidate) -> list[str]:
    return [one.target.name for one in spread(ranked or REPLICAS, loads, session)]


def test_where_nothing_is_known_the_order_is_the_declared_one() -> None:
    assert order({}) == ["r0", "r1", "r2"]


def test_the_less_busy_comes_first() -> None:
    assert order({"r0": Occupancy(2, 2.0), "r1": Occupancy(0, 5.0), "r2": Occupancy(1, 1.0)}) == ["r2", "r0", "r1"]


def test_what_this_router_has_in_flight_counts_before_the_engine_has_told_of_it() -> None:
    assert order({"r0": Occupancy(4, 0.0), "r1": Occupancy(0, 1.0), "r2": Occupancy(0, 2.0)}) == ["r1", "r2", "r0"]


def test_an_unknown_load_is_not_zero() -> None:
    loads = {"r1": Occupancy(0, 6.0), "r2": Occupancy(0, 2.0)}
    assert order(loads) == ["r2", "r0", "r1"]


def test_loads_never_overrule_policy() -> None:
    ranked = (candidate("r0", 200.0), candidate("r1", 100.0))
    assert order({"r0": Occupancy(50, 50.0)}, "s", *ranked) == ["r0", "r1"]


def test_targets_that_serve_something_else_are_no_replicas() -> None:
    for other in (candidate("r1", model="m"), candidate("r1", weights="w"), candidate("r1", tier="large")):
        assert order({"r0": Occupancy(50, 50.0)}, "s", candidate("r0"), other) == ["r0", "r1"]


def test_a_full_replica_comes_last() -> None:
    assert order({"r0": Occupancy(1, 1.0, full=True), "r1": Occupancy(9, 9.0)}) == ["r2", "r1", "r0"]


def test_a_session_stays_with_one_replica_and_sessions_spread_over_all() -> None:
    sessions = [f"session {number}" for number in range(300)]
    homes = {session: order({}, session)[0] for session in sessions}
    busy = {name: Occupancy(2, 2.0) for name in NAMES[:2]}
    assert homes == {session: order(busy, session)[0] for session in sessions}
    assert min(Counter(homes.values()).values()) > 70


def test_a_replica_that_goes_away_moves_its_own_sessions_alone() -> None:
    for number in range(100):
        session = f"session {number}"
        home = order({}, session)[0]
        left = [one for one in REPLICAS if one.target.name != "r2"]
        assert home == "r2" or order({}, session, *left)[0] == home


def test_a_session_leaves_a_replica_that_is_clearly_busier_or_full() -> None:
    home = order({}, "s")[0]
    idle = {name: Occupancy(0, 0.0) for name in NAMES}
    assert order({**idle, home: Occupancy(2, 2.0)}, "s")[0] == home
    assert order({**idle, home: Occupancy(3, 3.0)}, "s")[0] != home
    assert order({**idle, home: Occupancy(1, 1.0, full=True)}, "s")[0] != home


def test_a_plan_says_that_a_session_chose() -> None:
    assert spread(REPLICAS, {}, "s")[0].reasons[0] == "local first"
    assert "session" in spread(REPLICAS, {}, "s")[0].reasons[1]
    assert replace(spread(REPLICAS, {}, "")[0]) == REPLICAS[0]
