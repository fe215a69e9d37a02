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

from services.cloud_proxy import http_proxy, tls
from services.cloud_proxy.http_provider import HttpProvider
from services.cloud_proxy.http_proxy import HttpProxy
from services.cloud_proxy.key_files import read_keys
from services.cloud_proxy.keyring import Keyring
from services.cloud_proxy.limiter import Limiter
from services.cloud_proxy.provider import Wire
from services.cloud_proxy.proxy import CloudProxy
from services.cloud_proxy.route import Route
from services.cloud_proxy.servicer import CloudProxyServicer, InferenceServicer
from services.cloud_proxy.settings import NO_PROXY, CloudProxySettings, ModelSettings, ProviderSettings
from services.cloud_proxy.spend import Price, Tariff, Tokens
from services.cloud_proxy.wires.anthropic import Anthropic
from services.cloud_proxy.wires.gemini import Gemini
from services.cloud_proxy.wires.mistral import Mistral
from services.cloud_proxy.wires.openai import OpenAI
from services.cloud_proxy.wires.openai_responses import OpenAIResponses
from spillway.deadline import Clock
from spillway.rpc.keys import ROUTE
from spillway.rpc.server import Server, Service
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
) -> AsyncIterator[CloudProxyApp]:
    """Serve `settings` for the block. Raises SettingsError for a key that is not where it should be, OSError for a
    port that is taken."""
    async with AsyncExitStack() as stack:
        if tracing is None:
            tracing = Tracing("cloud_proxy", settings.telemetry)
            stack.callback(tracing.close)
        if store is None:
            store = Store(settings.store)
            stack.push_async_callback(store.close)
        limiter = Limiter(store, name=uuid.uuid4().hex, replicas=settings.replicas, clock=clock)
        stack.push_async_callback(limiter.settled)
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
        proxy = CloudProxy(routes, limiter, tracing=tracing, clock=clock, window=settings.window_s)
        server = Server(
            settings.server,
            [
                Service(INFERENCE, InferenceServicer(proxy), inference_pb2_grpc.add_InferenceServiceServicer_to_server),
                Service(
                    CLOUD,
                    CloudProxyServicer(proxy, keyrings),
                    cloud_pb2_grpc.add_CloudProxyServiceServicer_to_server,
                ),
            ],
            tracing=tracing,
            clock=clock,
            scopes={INFERENCE: ROUTE, CLOUD: ROUTE},
        )
        await server.start()
        stack.push_async_callback(server.close)
        limited = [provider.name for provider in settings.providers]
        for name in limited:
            await limiter.look(name)  # be counted among the proxies before the first call
        looking = asyncio.create_task(limiter.keep_looking(limited))
        stack.callback(looking.cancel)
        for route in routes.values():
            route.tariff.cost_nano_usd(Tokens(1, 1))  # the price list takes a while to read, once
        await server.health.set_ready(True)
        yield CloudProxyApp(server, proxy, keyrings)


def _tariff(provider: ProviderSettings, model: ModelSettings) -> Tariff:
    price = model.price
    if price is None:
        return Tariff(model.name, provider.base_url, provider.price_list)
    cached = price.input_usd_per_mtok if price.cached_input_usd_per_mtok is None else price.cached_input_usd_per_mtok
    usd = (price.input_usd_per_mtok, price.output_usd_per_mtok, cached)
    return Tariff(model.name, provider.base_url, provider.price_list, Price(*(Decimal(str(value)) for value in usd)))


def _proxy(provider: ProviderSettings, environ: Mapping[str, str]) -> HttpProxy | None:
    """The HTTP proxy that the settings or else the environment set; of these none for what is simulated here."""
    if provider.proxy is not None:
        return None if provider.proxy == NO_PROXY else HttpProxy.at(provider.proxy)
    return None if provider.simulated else http_proxy.from_environment(provider.base_url, environ)
