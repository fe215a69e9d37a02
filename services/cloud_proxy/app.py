"""The cloud proxy put together."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from services.cloud_proxy.http_provider import HttpProvider
from services.cloud_proxy.key import read_key
from services.cloud_proxy.limiter import Limiter
from services.cloud_proxy.limits import WINDOW_S
from services.cloud_proxy.provider import Wire
from services.cloud_proxy.proxy import CloudProxy
from services.cloud_proxy.quotas import Quotas
from services.cloud_proxy.rationing import Rationing
from services.cloud_proxy.route import Route
from services.cloud_proxy.scopes import all_scopes
from services.cloud_proxy.servicer import CloudProxyServicer, InferenceServicer
from services.cloud_proxy.settings import CloudProxySettings, ModelSettings, ProviderSettings
from services.cloud_proxy.spend import Price, Tariff, Tokens
from services.cloud_proxy.wires.openai import OpenAI
from spillway.deadline import Clock
from spillway.rpc.keys import ROUTE
from spillway.rpc.server import Server, Service
from spillway.store.redis import Store
from spillway.telemetry.tracing import Tracing
from spillway.v1 import cloud_pb2_grpc, inference_pb2_grpc

INFERENCE, CLOUD = "spillway.v1.InferenceService", "spillway.v1.CloudProxyService"
WIRES: Mapping[str, Callable[[ProviderSettings], Wire]] = {"openai": OpenAI}
"""Wire format -> who speaks it."""


@dataclass(frozen=True, slots=True)
class CloudProxyApp:
    """A running cloud proxy."""

    server: Server
    proxy: CloudProxy

    async def died(self) -> str:
        """It goes on as long as its process: providers and store may come and go."""
        await asyncio.Event().wait()
        return ""


@asynccontextmanager
async def build(
    settings: CloudProxySettings,
    *,
    environ: Mapping[str, str] = os.environ,
    store: Store | None = None,
    tracing: Tracing | None = None,
    clock: Clock = time.monotonic,
    limit_window_s: float = WINDOW_S,
) -> AsyncIterator[CloudProxyApp]:
    """Serve `settings` for the block; `limit_window_s` is for tests. Raises SettingsError for a key that is not where
    it should be, OSError for a port that is taken."""
    async with AsyncExitStack() as stack:
        if tracing is None:
            tracing = Tracing("cloud_proxy", settings.telemetry)
            stack.callback(tracing.close)
        if store is None:
            store = Store(settings.store)
            stack.push_async_callback(store.close)
        limiter = Limiter(
            store, name=uuid.uuid4().hex, replicas=settings.replicas, clock=clock, window_s=limit_window_s
        )
        stack.push_async_callback(limiter.settled)
        routes: dict[str, Route] = {}
        keyed = set()
        for at, provider in enumerate(settings.providers):
            path = f"cloud_proxy.providers.{at}"
            key = read_key(path, env=provider.key_env, file=provider.key_file, environ=environ)
            if key is not None:
                keyed.add(provider.name)
            adapter = HttpProvider(provider, WIRES[provider.kind](provider), key, proxy=_proxy(provider))
            stack.push_async_callback(adapter.close)
            for model in provider.models:
                name = f"{provider.name}/{model.name}"
                routes[name] = Route(name, provider, model, adapter, _tariff(provider, model))
        rationing = Rationing({each.name: each for each in settings.providers}, limiter, clock=clock)
        stack.push_async_callback(rationing.close)
        quotas = Quotas(routes, rationing, clock=clock)
        proxy = CloudProxy(routes, rationing, tracing=tracing, clock=clock, window=settings.window_s)
        server = Server(
            settings.server,
            [
                Service(INFERENCE, InferenceServicer(proxy), inference_pb2_grpc.add_InferenceServiceServicer_to_server),
                Service(
                    CLOUD,
                    CloudProxyServicer(proxy, quotas, frozenset(keyed)),
                    cloud_pb2_grpc.add_CloudProxyServiceServicer_to_server,
                ),
            ],
            tracing=tracing,
            clock=clock,
            scopes={INFERENCE: ROUTE, CLOUD: ROUTE},
        )
        await server.start()
        stack.push_async_callback(server.close)
        stack.push_async_callback(quotas.close)  # a watch would go on for as long as a server waits for its calls
        scopes = {provider.name: tuple(all_scopes(provider)) for provider in settings.providers}
        for name, each in scopes.items():
            await limiter.look(name, each)  # be counted among the proxies before the first call
        looking = asyncio.create_task(limiter.keep(scopes))
        stack.callback(looking.cancel)
        for route in routes.values():
            route.tariff.cost_nano_usd(Tokens(1, 1))  # the price list takes a while to read, once
        await server.health.set_ready(True)
        yield CloudProxyApp(server, proxy)


def _tariff(provider: ProviderSettings, model: ModelSettings) -> Tariff:
    price = model.price
    if price is None:
        return Tariff(model.name, provider.base_url, provider.price_list)
    cached = price.input_usd_per_mtok if price.cached_input_usd_per_mtok is None else price.cached_input_usd_per_mtok
    usd = (price.input_usd_per_mtok, price.output_usd_per_mtok, cached)
    return Tariff(model.name, provider.base_url, provider.price_list, Price(*(Decimal(str(value)) for value in usd)))


def _proxy(provider: ProviderSettings) -> str | None:
    """The HTTP proxy the environment sets for this provider; none for what is simulated here."""
    parts = urlsplit(provider.base_url)
    if provider.simulated or proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)
