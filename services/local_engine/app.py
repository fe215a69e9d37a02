"""The composition root of the local engine."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from services.local_engine import adapter_source, environment, model_source, room, vllm_version
from services.local_engine.adapters import Adapters
from services.local_engine.backend import AdapterLoader, Backend
from services.local_engine.engine import Engine
from services.local_engine.guarded import Guarded
from services.local_engine.keeper import Keeper
from services.local_engine.lease import Lease
from services.local_engine.lease_measures import LeaseMeasures
from services.local_engine.lease_settings import LeaseSettings, runtime_name
from services.local_engine.presets import PRESETS
from services.local_engine.servicer import SCOPES, AdminServicer, Servicer, services
from services.local_engine.settings import AdapterSettings, LocalEngineSettings
from spillway import v1
from spillway.deadline import Clock
from spillway.doctor import checkpoint
from spillway.doctor.inspection import Sources, inspect
from spillway.doctor.sharing import Lot
from spillway.rpc.server import Server
from spillway.session.server import Sessions, at_once
from spillway.settings import SettingsError
from spillway.store.redis import Store
from spillway.telemetry.metrics import Metrics
from spillway.telemetry.tracing import Tracing

BackendOpener = Callable[[LocalEngineSettings], Awaitable[Backend]]


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """The service: it listens at once, and is ready when the engine has produced a token."""

    server: Server
    engine: Engine
    starting: asyncio.Task[None]

    async def died(self) -> str:
        """Return why the engine can serve no more; raises SettingsError if it never could."""
        await asyncio.shield(self.starting)
        return await self.engine.died()


async def open_vllm(settings: LocalEngineSettings) -> Backend:
    """Load vLLM and the model. Raises SettingsError where they cannot be loaded, SettingsHopeless if they never fit."""
    model_source.require(settings.model)
    lot = await asyncio.to_thread(_require_room, settings)
    settings = room.within(settings, lot)
    environment.confine(lot.cores, lot.devices, os.environ)
    if settings.vllm.adapters is not None:
        Adapters.require(settings.vllm.adapters, await asyncio.to_thread(_base_shapes, settings.model))
    environment.prepare(settings, os.environ)

    def load(abandoned: threading.Event) -> Backend:
        found = vllm_version.probe()
        vllm_version.tell(found)
        environment.name_version(found.version, os.environ)
        from services.local_engine.vllm_backend import VllmBackend  # only where there is a vLLM that has all it needs

        return VllmBackend.opened(settings, abandoned, keeper.release)

    keeper = Keeper(load)
    backend = await keeper.open()
    gc.collect()
    gc.freeze()  # vLLM and torch are a million objects that stay; collections need not look at them
    return backend


def _require_room(settings: LocalEngineSettings) -> Lot:
    cache = checkpoint.hub_cache(os.environ)
    return room.require(settings, inspect(Sources.here(cache)), cache)


def _base_shapes(model: str) -> adapter_source.Shapes:
    return adapter_source.base_shapes(checkpoint.find(model, checkpoint.hub_cache(os.environ)))


def lease_name(settings: LocalEngineSettings) -> str:
    """What the lease is called where the settings do not say: after the runtime's address.

    A runtime in this process has none of its own.
    """
    node = socket.gethostname()
    if settings.runtime.in_process:
        return f"{node}/{settings.target}"
    return runtime_name(settings.runtime.address or PRESETS[settings.runtime.kind].address, node)


def guarded(
    settings: LocalEngineSettings, lease: LeaseSettings, store: Store, *, metrics: Metrics, clock: Clock
) -> Callable[[Backend], Backend]:
    """Return what puts a backend behind `lease`."""
    name = lease.name or lease_name(settings)
    owner = f"{settings.target}@{socket.gethostname()}:{os.getpid()}/{uuid.uuid4().hex[:4]}"

    def guard(backend: Backend) -> Backend:
        measures = LeaseMeasures(metrics.meter, name)
        held = Lease(lease, name, store, owner="".join(owner.split()), measures=measures, clock=clock)
        held.start()
        return Guarded(backend, held)

    return guard


async def open_runtime(settings: LocalEngineSettings) -> Backend:
    """Reach the runtime that has the model. Raises SettingsError where it never will, TargetUnavailable for now."""
    from services.local_engine.openai_backend import OpenAIBackend  # brings an HTTP client, which vLLM does not need

    return await OpenAIBackend.opened(settings, _key(settings.runtime.api_key_env, os.environ))


def _key(variable: str | None, environ: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    key = environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"local_engine.runtime.api_key_env: {variable} holds no key: printable ASCII, no spaces")
    return key


async def open_configured(settings: LocalEngineSettings) -> Backend:
    """Open what `runtime.kind` names."""
    return await (open_vllm if settings.runtime.in_process else open_runtime)(settings)


@asynccontextmanager
async def build(
    settings: LocalEngineSettings,
    *,
    open_backend: BackendOpener = open_configured,
    tracing: Tracing | None = None,
    clock: Clock = time.monotonic,
) -> AsyncIterator[LocalEngine]:
    """Serve a local engine for the block. It becomes ready by itself; `starting` tells when, or why not.

    Raises SettingsError where a lease is asked for and there is no store. `clock` is the lease's.
    """
    async with AsyncExitStack() as stack:
        if tracing is None:
            tracing = Tracing("local_engine", settings.telemetry)
        stack.callback(tracing.close)
        guard: Callable[[Backend], Backend] | None = None
        if settings.lease is not None:
            store = Store(settings.store)
            stack.push_async_callback(store.close)
            metrics = Metrics("local_engine", settings.telemetry)
            stack.push_async_callback(asyncio.to_thread, metrics.close)
            guard = guarded(settings, settings.lease, store, metrics=metrics, clock=clock)

        async def opened() -> Backend:
            backend = await open_backend(settings)
            return backend if guard is None else guard(backend)

        async def open_adapters(loader: AdapterLoader, told: AdapterSettings) -> Adapters:
            return Adapters(told, loader, await asyncio.to_thread(_base_shapes, settings.model))

        adapters = settings.vllm.adapters
        engine = Engine(
            settings, opened, tracing, None if adapters is None else lambda loader: open_adapters(loader, adapters)
        )
        stack.push_async_callback(engine.close)
        admin = AdminServicer(engine, lambda grace_s: server.stop_soon(grace_s))
        sessions = Sessions(
            at_once(
                lambda request, call: engine.generate(request.spec, call, whole=isinstance(request, v1.GenerateRequest))
            ),
            settings.server,
            tracing=tracing,
        )
        server = Server(
            settings.server, services(Servicer(engine, sessions), admin, sessions), tracing=tracing, scopes=SCOPES
        )
        server.stops_after(engine.idle)
        engine.leaving = lambda: server.draining
        stack.push_async_callback(server.close)
        await server.start()
        starting = asyncio.create_task(_start(engine, server), name="engine-start")
        stack.push_async_callback(_stopped, starting)
        following = asyncio.create_task(_follow(engine, server, starting), name="engine-follow")
        stack.push_async_callback(_stopped, following)
        stack.callback(gc.unfreeze)
        yield LocalEngine(server, engine, starting)


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


async def _start(engine: Engine, server: Server) -> None:
    await engine.start()
    await server.health.set_ready(True, "the engine is warm")


async def _follow(engine: Engine, server: Server, starting: asyncio.Task[None]) -> None:
    """Keep the health that callers are told in step with what the backend can do."""
    await asyncio.wait([starting])
    if starting.cancelled() or starting.exception() is not None:
        return
    while True:
        await engine.changed()
        if server.draining:
            return
        why = engine.trouble()
        await server.health.set_ready(not why, why or "the engine can serve again")
