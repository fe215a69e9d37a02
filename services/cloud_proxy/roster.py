"""The providers as operators may see them: without secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.cloud_proxy.keyring import Keyring, Standing
from services.cloud_proxy.quotas import Quotas
from services.cloud_proxy.route import Route
from spillway import v1
from spillway.errors import SpillwayError
from spillway.rpc.call import Call

ASK_S = 5.0
"""Longest a provider has to say which models it serves."""


async def listed(
    routes: Mapping[str, Route], quotas: Quotas, keyrings: Mapping[str, Keyring], call: Call | None
) -> list[v1.Provider]:
    """Return every provider. With a `call`, each is asked for its models under it, all at once."""
    by_provider: dict[str, list[Route]] = {}
    for route in routes.values():
        by_provider.setdefault(route.provider.name, []).append(route)
    told = [_provider(own, keyrings) for own in by_provider.values()]
    pairs = list(zip(told, by_provider.values(), strict=True))
    await asyncio.gather(*(_limits(each, own[0], quotas) for each, own in pairs))
    if call is not None:
        await asyncio.gather(*(_served(each, own[0], call) for each, own in pairs))
    return told


def _provider(routes: list[Route], keyrings: Mapping[str, Keyring]) -> v1.Provider:
    provider = routes[0].provider
    keys = [_key(standing) for standing in keyrings[provider.name].standings()]
    return v1.Provider(
        name=provider.name,
        simulated=provider.simulated,
        region=provider.region,
        models=[route.name for route in routes],
        has_key=bool(keys),
        keys=keys,
        retention_days=provider.retention_days,
        wire=provider.kind,
    )


def _key(standing: Standing) -> v1.ProviderKey:
    state = v1.KeyState.Value(f"KEY_STATE_{standing.state.name}")
    return v1.ProviderKey(source=standing.source, state=state, why=standing.why)


async def _limits(told: v1.Provider, route: Route, quotas: Quotas) -> None:
    told.limits.extend(await quotas.limits(route))


async def _served(told: v1.Provider, route: Route, call: Call) -> None:
    try:
        told.served_models.extend(await route.adapter.models(call.until(call.deadline.within(ASK_S))))
    except SpillwayError as error:
        told.served_models_error = error.reason
