"""What is left of every limit, told to operators and routers: asked of the store once, however many watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from services.cloud_proxy.keyring import Keyring
from services.cloud_proxy.limits import Scope
from services.cloud_proxy.rationing import Rationing
from services.cloud_proxy.route import Route
from services.cloud_proxy.scopes import all_scopes, own_scopes
from services.cloud_proxy.standing import Standing
from spillway import v1
from spillway.deadline import Clock

INTERVAL_S = 1.0
"""Least time between two messages, where the watcher does not say."""
LEAST_INTERVAL_S = 0.1
HEARTBEAT_S = 10.0
"""Longest silence of a watch."""
DEAD_S = 60.0
"""A provider none of whose keys is valid is said to be closed for so long, again and again."""
AGE_SHARE = 0.5
"""Of a watcher's interval, how old what it is told may be: so watchers share a look."""


class Quotas:
    """Quotas of all `routes`."""

    def __init__(
        self, routes: Mapping[str, Route], rationing: Rationing, keyrings: Mapping[str, Keyring], *, clock: Clock
    ) -> None:
        self._routes = routes
        self._rationing = rationing
        self._keyrings = keyrings
        self._clock = clock
        self._looking = asyncio.Lock()
        self._looked: tuple[float, dict[str, dict[str, Standing]]] | None = None
        self._closed = asyncio.Event()

    async def watch(self, request: v1.WatchQuotasRequest) -> AsyncGenerator[v1.WatchQuotasResponse]:
        """Yield the quotas of all targets, then of those that have changed, until the proxy closes.

        Where nothing has for HEARTBEAT_S, an empty message says that the proxy is still there.
        """
        told: dict[str, v1.Quota] = {}
        interval_s = max(
            LEAST_INTERVAL_S, request.interval_ms / 1000 if request.HasField("interval_ms") else INTERVAL_S
        )
        sequence, silent_since = 0, self._clock()
        while not self._closed.is_set():
            found = await self._now(interval_s * AGE_SHARE)
            news = [quota for quota in found if changed(told.get(quota.target), quota)]
            if news or self._clock() - silent_since >= HEARTBEAT_S:
                silent_since = self._clock()
                yield v1.WatchQuotasResponse(sequence=sequence, quotas=news)
                sequence += 1
                told.update((quota.target, quota) for quota in news)
            try:
                async with asyncio.timeout(interval_s):
                    await self._closed.wait()
            except TimeoutError:
                pass

    async def limits(self, route: Route) -> list[v1.RateLimit]:
        """Return what is left of the limits of `route`'s provider, of its models and of the tenants that are named."""
        scopes = tuple(all_scopes(route.provider))
        found = await self._rationing.limiter.look(route.provider.name, scopes)
        return [limit for scope in scopes for limit in told_of(found[scope.name])]

    async def close(self) -> None:
        """End every watch."""
        self._closed.set()

    async def _now(self, age_s: float) -> list[v1.Quota]:
        async with self._looking:
            if self._looked is None or self._clock() - self._looked[0] > age_s:
                providers = {route.provider.name: route.provider for route in self._routes.values()}
                found = {
                    name: await self._rationing.limiter.look(name, own_scopes(provider, *provider.models))
                    for name, provider in providers.items()
                }
                self._looked = (self._clock(), found)
        _, standings = self._looked
        return [self._quota(route, standings[route.provider.name]) for route in self._routes.values()]

    def _quota(self, route: Route, standings: Mapping[str, Standing]) -> v1.Quota:
        scopes: Sequence[Scope] = own_scopes(route.provider, route.model)
        own = [standings[scope.name] for scope in scopes]
        longest = max(own, key=lambda standing: standing.closed_s)
        closed_s, why = longest.closed_s, longest.why
        keyless = self._keyrings[route.provider.name].closed()
        if keyless is not None and (rest_s := keyless.retry_after_s or DEAD_S) > closed_s:
            closed_s, why = rest_s, keyless.reason
        return v1.Quota(
            target=route.name,
            limits=[limit for standing in own for limit in told_of(standing)],
            closed_ms=round(closed_s * 1000) or None,
            closed_why=why if closed_s else "",
            running=self._rationing.running[route.name],
            waiting=self._rationing.waiting[route.name],
        )

    def __repr__(self) -> str:
        return f"<Quotas of {len(self._routes)} targets>"


def told_of(standing: Standing) -> list[v1.RateLimit]:
    """Return `standing` as the contract tells it."""
    return [
        v1.RateLimit(
            name=left.name,
            limit=left.limit,
            remaining=left.remaining,
            scope=standing.scope.name,
            free_in_ms=None if left.free_s is None else round(left.free_s * 1000),
            learned=left.learned,
        )
        for left in standing.left()
    ]


def changed(before: v1.Quota | None, now: v1.Quota) -> bool:
    """Whether there is something to tell: time that only runs down is not."""
    return before is None or now.closed_ms > before.closed_ms or _lasting(before) != _lasting(now)


def _lasting(quota: v1.Quota) -> v1.Quota:
    kept = v1.Quota()
    kept.CopyFrom(quota)
    kept.ClearField("closed_ms")
    for limit in kept.limits:
        limit.ClearField("free_in_ms")
    return kept
