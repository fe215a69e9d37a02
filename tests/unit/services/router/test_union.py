from __future__ import annotations

from services.router import union
from spillway import v1

OPEN, HALF, CLOSED = v1.BREAKER_STATE_OPEN, v1.BREAKER_STATE_HALF_OPEN, v1.BREAKER_STATE_CLOSED


def target(name: str, *breakers: tuple[str, v1.BreakerState.ValueType, float], no_room: str = "") -> v1.TargetStatus:
    told = [v1.BreakerStatus(kind=kind, state=state, left_s=left_s) for kind, state, left_s in breakers]
    return v1.TargetStatus(target=name, breakers=told, no_room=no_room)


def test_of_every_breaker_the_worst_that_any_worker_holds_is_told() -> None:
    own = [target("a", ("", HALF, 1.0)), target("b")]
    others = [[target("a", ("", OPEN, 2.0), ("extract", HALF, 0.0)), target("b", no_room="none left")], []]
    first, second = union.of_targets(own, *others)
    assert [(each.kind, each.state, each.left_s) for each in first.breakers] == [
        ("", OPEN, 2.0),
        ("extract", HALF, 0.0),
    ]
    assert (second.no_room, len(second.breakers)) == ("none left", 0)
    assert len(own[0].breakers) == 1


def test_what_workers_count_is_added_up_and_what_all_share_is_told_once() -> None:
    finding = v1.PolicyFinding(path="rules[0]", message="never used")
    spend = v1.TenantSpend(tenant="acme", day_nano_usd=5)
    told = v1.GetStatusResponse(
        uptime_s=5, routers=2, findings=[finding], spend=[spend], ledger=v1.LedgerStatus(pending=1, recovered=2)
    )
    other = v1.GetStatusResponse(
        uptime_s=9,
        routers=2,
        findings=[finding],
        spend=[spend, v1.TenantSpend(tenant="other")],
        ledger=v1.LedgerStatus(pending=2, lost=1),
        cache=v1.CacheStatus(hits=3),
    )
    found = union.of_status(told, [other])
    assert (found.uptime_s, found.routers, len(found.findings)) == (9, 2, 1)
    assert (found.ledger.pending, found.ledger.lost, found.ledger.recovered, found.cache.hits) == (3, 1, 2, 3)
    assert [each.tenant for each in found.spend] == ["acme", "other"]


def test_a_router_alone_is_told_as_it_is() -> None:
    told = v1.GetStatusResponse(router="one", targets=[target("a", ("", OPEN, 1.0))])
    assert union.of_status(told, []) == told
