"""What is watched of cloud proxies: the quotas of their targets, at the addresses of cloud targets."""

from __future__ import annotations

from collections.abc import Sequence

from spillway import v1
from spillway.deadline import Clock
from spillway.telemetry import names
from spillway.v1 import cloud_pb2_grpc

from .quotas import Allowance, Quota, Quotas
from .target import Target
from .watch import Subject

SILENCE_S = 30.0
"""A proxy tells what changes. One that tells nothing for so long is asked anew: it tells all, or is unknown."""
TENANT = "tenant:"
"""Scope of a limit that is not everybody's, and so says nothing of the next request."""


def quota_watch(quotas: Quotas, clock: Clock) -> Subject[v1.WatchQuotasResponse]:
    """Keeps `quotas` told. A router that is a target has limits of its own, of which it tells nothing."""

    def hear(targets: Sequence[Target], told: v1.WatchQuotasResponse) -> None:
        now = clock()
        by_model = {quota.target: read_quota(quota, now) for quota in told.quotas}
        for target in targets:
            if (quota := by_model.get(target.model or target.name)) is not None:
                quotas.hear(target.name, quota)

    return Subject(
        name="quotas",
        span=names.WATCH_QUOTAS,
        method=lambda channel: cloud_pb2_grpc.CloudProxyServiceStub(channel).WatchQuotas,
        request=v1.WatchQuotasRequest(),
        silence_s=SILENCE_S,
        concerns=lambda target: not (target.local or target.router),
        hear=hear,
        lose=quotas.lose,
    )


def read_quota(told: v1.Quota, now: float) -> Quota:
    """Return what a proxy told of one target at `now`."""
    return Quota(
        allowances=tuple(
            Allowance(
                limit.name,
                limit.limit,
                limit.remaining if limit.HasField("remaining") else None,
                now + limit.free_in_ms / 1000 if limit.HasField("free_in_ms") else None,
            )
            for limit in told.limits
            if not limit.scope.startswith(TENANT)
        ),
        closed_until=now + told.closed_ms / 1000 if told.HasField("closed_ms") else None,
        closed_why=told.closed_why,
    )
