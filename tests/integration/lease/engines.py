"""Engines before one runtime, with a lease between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from services.local_engine.app import LocalEngine, build
from services.local_engine.backend import Backend
from services.local_engine.lease_settings import LeaseSettings
from services.local_engine.settings import LocalEngineSettings
from spillway import lease, v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.settings import StoreSettings
from spillway.store.redis import Store
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from spillway.v1 import engine_pb2_grpc, inference_pb2_grpc
from tests.integration.lease.runtime import HANGS, Runtime, RuntimeBackend

NAME = "runtime"
TTL_S = 2.0


def lease_settings(**told: Any) -> LeaseSettings:
    fields = {"name": NAME, "ttl_s": TTL_S, "renew_s": 0.5, "cancel_s": 0.5, "max_hold_s": 60, "wait_s": 30}
    return LeaseSettings.model_validate(fields | told)


def settings(url: str, **told: Any) -> LocalEngineSettings:
    return LocalEngineSettings(server=LOOPBACK, store=StoreSettings(url=url), lease=lease_settings(**told))


@dataclass
class Client:
    """Calls one engine."""

    app: LocalEngine
    remote: Remote

    async def ask(
        self,
        prompt: str = "hello",
        *,
        request_id: str = "r",
        priority: v1.Priority.ValueType = v1.PRIORITY_INTERACTIVE,
        deadline_s: float = 40.0,
    ) -> str:
        stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        spec = v1.GenerationSpec(text=v1.TextPrompt(text=prompt), priority=priority, request_id=request_id)
        call = Call(request_id, Deadline.after(deadline_s))
        told: v1.GenerateResponse = await self.remote.unary(
            stub.Generate, v1.GenerateRequest(spec=spec), call, span_name="t"
        )
        return told.choices[0].content.text

    async def waiting(self) -> int:
        stub = engine_pb2_grpc.EngineTelemetryServiceStub(self.remote.channel)
        call = Call("r", Deadline.after(5))
        told: v1.GetLoadResponse = await self.remote.unary(stub.GetLoad, v1.GetLoadRequest(), call, span_name="t")
        return told.load.waiting


@asynccontextmanager
async def engines(runtime: Runtime, url: str, count: int = 1, **told: Any) -> AsyncIterator[list[Client]]:
    """`count` engines before `runtime`, warm; `told` are settings of the lease."""

    async def opened(_: LocalEngineSettings) -> Backend:
        return RuntimeBackend(runtime.address)

    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            app = await stack.enter_async_context(build(settings(url, **told), open_backend=opened))
            remote = Remote(app.server.address, tracing=Tracing("test"))
            stack.push_async_callback(remote.close)
            clients.append(Client(app, remote))
        for client in clients:
            await client.app.starting
            await client.remote.channel.channel_ready()
        runtime.entered.clear()
        yield clients


async def standing(url: str) -> lease.Standing:
    """How the lease stands on the store; one that is not known there has no slots."""
    return await _run(url, lease.LOOK)


async def end(url: str) -> lease.Standing:
    """Have its holders end."""
    return await _run(url, lease.END, lease.channel(NAME))


async def _run(url: str, script: Any, *arguments: str) -> lease.Standing:
    store = Store(StoreSettings(url=url, timeout_s=5.0))
    try:
        found = lease.standing(NAME, await store.run(script, lease.keys(NAME), arguments))
    finally:
        await store.close()
    return found or lease.Standing(NAME, 0, 0, ())


@asynccontextmanager
async def hanging(client: Client, runtime: Runtime) -> AsyncIterator[asyncio.Task[str]]:
    """A call of `client` that is inside the runtime."""
    before = len(runtime.entered)
    task = asyncio.create_task(client.ask(HANGS, request_id="holder"))
    await eventually(lambda: len(runtime.entered) > before)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def in_line(client: Client, number: int) -> None:
    """Return once so many calls wait in that engine."""
    async with asyncio.timeout(10):
        while True:
            if await client.waiting() >= number:
                return
