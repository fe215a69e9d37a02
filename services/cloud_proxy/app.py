"""The cloud proxy put together."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from services.cloud_proxy import http_proxy, tls
from services.cloud_proxy.audit import Audit
from services.cloud_proxy.http_provider import HttpProvider
from services.cloud_proxy.http_proxy import HttpProxy
from services.cloud_proxy.key_files import read_keys
from services.cloud_proxy.keyring import Keyring
from services.cloud_proxy.limiter import Limiter
from services.cloud_proxy.limits import WINDOW_S
from services.cloud_proxy.provider import Wire
from services.cloud_proxy.proxy import CloudProxy
from services.cloud_proxy.quotas import Quotas
from services.cloud_proxy.rationing import Rationing
from services.cloud_proxy.route import Route
from services.cloud_proxy.scopes import all_scopes
from services.cloud_proxy.servicer import CloudProxyServicer, InferenceServicer, stamped
from services.cloud_proxy.settings import (
    NO_PROXY,
    CloudProxySettings,
    ModelSettings,
    ProviderSettings,
    RateSettings,
)
from services.cloud_proxy.spend import Price, Tariff, Tokens
from services.cloud_proxy.spool import Spool
from services.cloud_proxy.wires.anthropic import Anthropic
from services.cloud_proxy.wires.gemini import Gemini
from services.cloud_proxy.wires.mistral import Mistral
from services.cloud_proxy.wires.openai import OpenAI
from services.cloud_proxy.wires.openai_responses import OpenAIResponses
from spillway.deadline import Clock
from spillway.rpc.keys import ROUTE
from spillway.rpc.server import Server, Service
from spillway.session.server import Sessions, at_once
from spillway.store.redis import Store
from spillway.telemetry.tracing import Tracing
from spillway.v1 import cloud_pb2_grpc, inference_pb2_grpc

INFERENCE, CLOUD = "spillway.v1.InferenceService", "spillway.v1.CloudProxyService"
WIRES: Mapping[str, Callable[[ProviderSettings], Wire]] = {
    "anthropic": Anthropic,
    "gemini": Gemini,
    "mistral": Mistral,
    "openai": OpenAI,
    "openai-responses": OpenAIResponses,
}
"""Wire format -> who speaks it."""


@dataclass(frozen=True, slots=True)
class CloudProxyApp:
    """A running cloud proxy."""

    server: Server
    proxy: CloudProxy
    keyrings: Mapping[str, Keyring]
    """Those of every provider, by its name."""
    recording: asyncio.Task[None]

    async def died(self) -> str:
        """Providers and store may come and go; without its audit trail it serves nobody."""
        await asyncio.wait({self.recording})
        return "the audit trail has ended"


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
        audit = Audit(settings.audit, store, Spool(settings.audit.folder))
        await audit.open()
        stack.push_async_callback(audit.close)
        if settings.server.worker.number == 0:
            await _sent(settings, store)
        recording = asyncio.create_task(audit.run(), name="audit trail")
        stack.push_async_callback(_ended, recording)
        routes: dict[str, Route] = {}
        keyrings: dict[str, Keyring] = {}
        for at, provider in enumerate(settings.providers):
            path = f"cloud_proxy.providers.{at}"
            keys, files = await asyncio.to_thread(read_keys, path, provider, environ)
            keyring = Keyring(provider.name, keys, clock=clock, max_rest_s=provider.max_closed_s)
            keyrings[provider.name] = keyring
            if files:
                looking = asyncio.create_task(files.keep_looking(keyring))
                stack.callback(looking.cancel)
            adapter = HttpProvider(
                provider,
                WIRES[provider.kind](provider),
                keyring,
                proxy=_proxy(provider, environ),
                trust=tls.trust(path, ca_bundle=provider.ca_bundle, client_cert=provider.client_cert),
            )
            stack.push_async_callback(adapter.close)
            for model in provider.models:
                name = f"{provider.name}/{model.name}"
                routes[name] = Route(name, provider, model, adapter, _tariff(provider, model))
        rationing = Rationing({each.name: each for each in settings.providers}, limiter, clock=clock)
        stack.push_async_callback(rationing.close)
        quotas = Quotas(routes, rationing, keyrings, clock=clock)
        proxy = CloudProxy(
            routes,
            rationing,
            audit,
            tracing=tracing,
            clock=clock,
            wall=_now,
            window=settings.window_s,
        )
        sessions = Sessions(
            at_once(lambda request, call: proxy.generate(request.spec, stamped(request), call)),
            settings.server,
            tracing=tracing,
            clock=clock,
        )
        server = Server(
            settings.server,
            [
                Service(
                    INFERENCE,
                    InferenceServicer(proxy, sessions),
                    inference_pb2_grpc.add_InferenceServiceServicer_to_server,
                    sessions,
                ),
                Service(
                    CLOUD,
                    CloudProxyServicer(proxy, quotas, keyrings),
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
        yield CloudProxyApp(server, proxy, keyrings, recording)


async def _sent(settings: CloudProxySettings, store: Store) -> None:
    """Send what waits in the folders of workers that are no more; what the store does not take stays there."""
    for folder in await asyncio.to_thread(settings.audit.left, settings.server.worker.count):
        old = Audit(settings.audit, store, Spool(folder))
        await old.open()
        await old.close()


def _now() -> datetime:
    return datetime.now(UTC)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _tariff(provider: ProviderSettings, model: ModelSettings) -> Tariff:
    price = model.price or provider.price
    listed = model.name, provider.real_url, provider.price_list
    if price is None:
        return Tariff(*listed)
    above = price.long_context
    long = None if above is None else (above.above_tokens, _price(above))
    return Tariff(*listed, replace(_price(price), above=long), price.as_of)


def _price(rate: RateSettings) -> Price:
    usual = rate.input_usd_per_mtok
    cached, written = rate.cached_input_usd_per_mtok, rate.cache_write_usd_per_mtok
    return Price(
        _usd(usual),
        _usd(rate.output_usd_per_mtok),
        _usd(usual if cached is None else cached),
        _usd(usual if written is None else written),
    )


def _usd(written: float) -> Decimal:
    return Decimal(str(written))  # 0.1 is a tenth


def _proxy(provider: ProviderSettings, environ: Mapping[str, str]) -> HttpProxy | None:
    """The HTTP proxy that the settings or else the environment set; of these none for what is simulated here."""
    if provider.proxy is not None:
        return None if provider.proxy == NO_PROXY else HttpProxy.at(provider.proxy)
    return None if provider.simulated else http_proxy.from_environment(provider.base_url, environ)
