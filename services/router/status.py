"""How a router stands, told to its operators."""

from __future__ import annotations

from dataclasses import dataclass

from spillway import v1
from spillway.deadline import Clock
from spillway.errors import TargetUnknown

from .breaker import Standing, State
from .budget import Spent
from .ledger import Ledger
from .policy_document import Finding
from .policy_file import PolicyFile
from .quotas import UNKNOWN
from .reading import KINDS
from .resolution import Resolution
from .router import Router
from .target import Target

MAX_TENANTS = 50
_STATES = {
    State.CLOSED: v1.BREAKER_STATE_CLOSED,
    State.OPEN: v1.BREAKER_STATE_OPEN,
    State.HALF_OPEN: v1.BREAKER_STATE_HALF_OPEN,
}


@dataclass(frozen=True, slots=True)
class Status:
    """What there is to say of one router. `file` and `ledger` are None where it has none."""

    name: str
    router: Router
    clock: Clock
    began: float
    """On `clock`."""
    file: PolicyFile | None = None
    ledger: Ledger | None = None
    resolution: Resolution | None = None

    def told(self) -> v1.GetStatusResponse:
        """All of it, as it is now."""
        router, ledger, now = self.router, self.ledger, self.clock()
        told = v1.GetStatusResponse(
            router=self.name,
            uptime_s=now - self.began,
            policy_revision=router.book.revision,
            findings=map(tell_finding, self.file.findings if self.file is not None else ()),
            targets=[self.target(target) for target in router.book.targets],
            routers=router.breakers.routers,
            spend=[self._spend(tenant, spent) for tenant, spent in router.spend.known(MAX_TENANTS).items()],
        )
        for address, answer in self.resolution.answers.items() if self.resolution is not None else ():
            age_s = None if answer.at is None else now - answer.at
            told.resolutions.add(address=address, addresses=answer.addresses, why=answer.why, age_s=age_s)
        if router.cache is not None:
            tally = router.cache.tally
            told.cache.CopyFrom(v1.CacheStatus(**{name: getattr(tally, name) for name in tally.__slots__}))
        if ledger is not None:
            told.ledger.CopyFrom(v1.LedgerStatus(pending=ledger.pending, lost=ledger.lost, recovered=ledger.recovered))
        return told

    def target(self, target: Target) -> v1.TargetStatus:
        """One target, and what is held against it."""
        return v1.TargetStatus(
            target=target.name,
            model=target.model,
            kind=KINDS[target.kind],
            region=target.region,
            tier=target.tier,
            address=target.address,
            router=target.router,
            replica_of=target.replica_of,
            unresolved=target.unresolved,
            no_room=self.router.planner.quotas.snapshot().get(target.name, UNKNOWN).objection(1, self.clock()),
            breakers=[_breaker(kind, found) for kind, found in self.router.breakers.against(target.name).items()],
        )

    def _spend(self, tenant: str, spent: Spent) -> v1.TenantSpend:
        now = self.clock()
        return v1.TenantSpend(
            tenant=tenant,
            day_nano_usd=spent.day,
            month_nano_usd=spent.month,
            held_nano_usd=spent.held,
            day_left_s=spent.day_ends - now,
            month_left_s=spent.month_ends - now,
        )

    def find(self, name: str) -> list[Target]:
        """The target called `name`, or the replicas that share that name. Raises TargetUnknown."""
        targets = self.router.book.targets
        found = [target for target in targets if name in (target.name, target.called)]
        if not found:
            known = ", ".join(target.name for target in targets[:20])
            raise TargetUnknown(f"target: {name[:100]!r} is not in the policy; known: {known}", resource=name[:100])
        return found

    def __repr__(self) -> str:
        return f"<Status of {self.name} {self.router.book!r}>"


def tell_finding(finding: Finding) -> v1.PolicyFinding:
    """Return a finding as the contract's message."""
    return v1.PolicyFinding(path=finding.path, message=finding.message, fatal=finding.fatal)


def _breaker(kind: str, standing: Standing) -> v1.BreakerStatus:
    return v1.BreakerStatus(
        kind=kind, state=_STATES[standing.state], why=standing.why, left_s=standing.left_s, share=standing.share
    )
