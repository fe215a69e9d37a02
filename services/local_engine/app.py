"""The composition root of the local engine."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from services.local_engine import environment, model_source, room
from services.local_engine.backend import Backend
from services.local_engine.engine import Engine
from services.local_engine.keeper import Keeper
from services.local_engine.servicer import Servicer, services
from services.local_engine.settings import LocalEngineSettings
from spillway.doctor.checkpoint import hub_cache
from spillway.doctor.inspection import Sources, inspect
from spillway.rpc.server import Server
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
    await asyncio.to_thread(_require_room, settings)
    environment.prepare(settings, os.environ)

    def load(abandoned: threading.Event) -> Backend:
        from services.local_engine.vllm_backend import VllmBackend  # takes seconds, and only where vLLM is installed

        return VllmBackend.opened(settings, abandoned, keeper.release)

    keeper = Keeper(load)
    return await keeper.open()


def _require_room(settings: LocalEngineSettings) -> None:
    cache = hub_cache(os.environ)
    room.require(settings, inspect(Sources.here(cache)), cache)


@asynccontextmanager
async def build(
    settings: LocalEngineSettings, *, open_backend: BackendOpener = open_vllm, tracing: Tracing | None = None
) -> AsyncIterator[LocalEngine]:
    """Serve a local engine for the block. It becomes ready by itself; `starting` tells when, or why not."""
    tracing = tracing or Tracing("local_engine", settings.telemetry)
    engine = Engine(settings, lambda: open_backend(settings), tracing)
    servicer = Servicer(engine)
    server = Server(settings.server, services(servicer), tracing=tracing)
    servicer.health = server.health
    starting: asyncio.Task[None] | None = None
    try:
        await server.start()
        starting = asyncio.create_task(_start(engine, server), name="engine-start")
        yield LocalEngine(server, engine, starting)
    finally:
        gc.unfreeze()
        if starting is not None:
            starting.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await starting
        await server.close()
        await engine.close()
        tracing.close()


async def _start(engine: Engine, server: Server) -> None:
    await engine.start()
    gc.collect()
    gc.freeze()  # vLLM and torch are a million objects that stay; collections need not look at them
    await server.health.set_ready(True, "the engine is warm")
