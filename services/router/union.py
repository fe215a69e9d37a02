"""What several workers of one router say, as one router says it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from spillway import v1

M = TypeVar("M", v1.CacheStatus, v1.LedgerStatus)
_SEVERITY = (v1.BREAKER_STATE_CLOSED, v1.BREAKER_STATE_HALF_OPEN, v1.BREAKER_STATE_OPEN)


def of_status(told: v1.GetStatusResponse, others: Sequence[v1.GetStatusResponse]) -> v1.GetStatusResponse:
    """Return `told` with what `others` add: counts are sums, of breakers the worst is told."""
    found = v1.GetStatusResponse()
    found.CopyFrom(told)
    for other in others:
        found.uptime_s = max(found.uptime_s, other.uptime_s)
        found.routers = max(found.routers, other.routers)
        if other.HasField("cache"):
            _add(found.cache, other.cache)
        if other.HasField("ledger"):
            _add(found.ledger, other.ledger)
        known = {spend.tenant for spend in found.spend}
        found.spend.extend(spend for spend in other.spend if spend.tenant not in known)
    found.ClearField("findings")
    found.findings.extend(of_findings(told.findings, *(other.findings for other in others)))
    found.ClearField("targets")
    found.targets.extend(of_targets(told.targets, *(other.targets for other in others)))
    return found


def of_findings(*told: Iterable[v1.PolicyFinding]) -> list[v1.PolicyFinding]:
    """Return every finding once."""
    found = {(each.path, each.message, each.fatal): each for findings in told for each in findings}
    return list(found.values())


def of_targets(first: Iterable[v1.TargetStatus], *others: Iterable[v1.TargetStatus]) -> list[v1.TargetStatus]:
    """Return `first`, each with the worst that anybody holds against it."""
    found = []
    for own in first:
        alike = [own, *(each for targets in others for each in targets if each.target == own.target)]
        worst: dict[str, v1.BreakerStatus] = {}
        for breaker in (breaker for each in alike for breaker in each.breakers):
            known = worst.get(breaker.kind)
            if known is None or _severity(breaker) > _severity(known):
                worst[breaker.kind] = breaker
        united = v1.TargetStatus()
        united.CopyFrom(own)
        united.no_room = next((each.no_room for each in alike if each.no_room), "")
        united.ClearField("breakers")
        united.breakers.extend(worst.values())
        found.append(united)
    return found


def _severity(breaker: v1.BreakerStatus) -> tuple[int, float]:
    return _SEVERITY.index(breaker.state), breaker.left_s


def _add(to: M, more: M) -> None:
    for field in to.DESCRIPTOR.fields:
        setattr(to, field.name, getattr(to, field.name) + getattr(more, field.name))
