"""The composition root of the local engine."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from services.local_engine import environment, model_source
from services.local_engine.backend import Backend
from services.local_engine.engine import Engine
from services.local_engine.keeper import Keeper
from services.local_engine.servicer import Servicer, services
from services.local_engine.settings import LocalEngineSettings
from spillway.rpc.server import Server
from spillway.settings import SettingsError
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
    """Load vLLM and the model. Raises SettingsError where they cannot be loaded."""
    model_source.require(settings.model)
    environment.prepare(settings, os.environ)

    def load(abandoned: threading.Event) -> Backend:
        from services.local_engine.vllm_backend import VllmBackend  # takes seconds, and only where vLLM is installed

        return VllmBackend.opened(settings, abandoned, keeper.release)

    keeper = Keeper(load)
    return await keeper.open()


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
    settings: LocalEngineSettings, *, open_backend: BackendOpener = open_configured, tracing: Tracing | None = None
) -> AsyncIterator[LocalEngine]:
    """Serve a local engine for the block. It becomes ready by itself; `starting` tells when, or why not."""
    tracing = tracing or Tracing("local_engine", settings.telemetry)
    engine = Engine(settings, lambda: open_backend(settings), tracing)
    servicer = Servicer(engine)
    server = Server(settings.server, services(servicer), tracing=tracing)
    servicer.health = server.health
    tasks: list[asyncio.Task[None]] = []
    try:
        await server.start()
        starting = asyncio.create_task(_start(engine, server), name="engine-start")
        tasks = [asyncio.create_task(_follow(engine, server, starting), name="engine-follow"), starting]
        yield LocalEngine(server, engine, starting)
    finally:
        gc.unfreeze()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
        await server.close()
        await engine.close()
        tracing.close()


async def _start(engine: Engine, server: Server) -> None:
    await engine.start()
    gc.collect()
    gc.freeze()  # vLLM and torch are a million objects that stay; collections need not look at them
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
