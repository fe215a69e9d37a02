"""A local engine before a simulated runtime, all on real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.local_engine.app import LocalEngine, build
from services.local_engine.settings import LocalEngineSettings, RuntimeSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.runtime_simulator import RuntimeSimulator, serving_runtime
from spillway.testing.server import LOOPBACK
from spillway.v1 import engine_pb2_grpc, inference_pb2_grpc


@dataclass
class Rig:
    """Calls the engine; `simulator` is what stands behind it."""

    app: LocalEngine
    remote: Remote
    simulator: RuntimeSimulator
    inference: Any = field(init=False)
    telemetry: Any = field(init=False)

    def __post_init__(self) -> None:
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        self.telemetry = engine_pb2_grpc.EngineTelemetryServiceStub(self.remote.channel)

    def stream(self, spec: v1.GenerationSpec, seconds: float = 20.0) -> Any:
        request = v1.StreamGenerateRequest(spec=spec)
        return self.remote.stream(self.inference.StreamGenerate, request, call(seconds), span_name="test")

    async def events(self, spec: v1.GenerationSpec, seconds: float = 20.0) -> list[v1.GenerationEvent]:
        async with self.stream(spec, seconds) as responses:
            return [response.event async for response in responses]

    async def generate(self, spec: v1.GenerationSpec, seconds: float = 20.0) -> v1.GenerateResponse:
        request = v1.GenerateRequest(spec=spec)
        return await self.remote.unary(self.inference.Generate, request, call(seconds), span_name="test")

    async def count(self, spec: v1.GenerationSpec) -> v1.CountTokensResponse:
        request = v1.CountTokensRequest(spec=spec)
        return await self.remote.unary(self.inference.CountTokens, request, call(), span_name="test")

    async def load(self) -> v1.Load:
        response = await self.remote.unary(self.telemetry.GetLoad, v1.GetLoadRequest(), call(), span_name="test")
        found: v1.Load = response.load
        return found

    @property
    def asked(self) -> Any:
        """The body of the last request for an answer."""
        return self.simulator.seen[-1].body


def call(seconds: float = 20.0) -> Call:
    return Call("test", Deadline.after(seconds))


def asking(text: str = "Where is it?", **fields: Any) -> v1.GenerationSpec:
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=text)])])
    return v1.GenerationSpec(chat=chat, **fields)


def settings(kind: str, address: str, **runtime: Any) -> LocalEngineSettings:
    told = {"kind": kind, "address": address, "health_s": 0.05, **runtime}
    return LocalEngineSettings(server=LOOPBACK, runtime=RuntimeSettings.model_validate(told))


def free_port() -> int:
    """A port that nobody listens on; for a runtime that comes later, or comes back."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def engine(kind: str, address: str, simulator: RuntimeSimulator, **runtime: Any) -> AsyncIterator[Rig]:
    """The engine alone, which may still be starting; `simulator` is served by the caller, or not yet."""
    async with build(settings(kind, address, **runtime)) as app:
        remote = Remote(app.server.address, tracing=Tracing("test"))
        try:
            yield Rig(app, remote, simulator)
        finally:
            await remote.close()


@asynccontextmanager
async def running(kind: str, simulator: RuntimeSimulator | None = None, **runtime: Any) -> AsyncIterator[Rig]:
    """A runtime of `kind` and an engine before it that serves."""
    simulator = simulator or RuntimeSimulator(kind=kind)
    async with serving_runtime(simulator) as address, engine(kind, address, simulator, **runtime) as rig:
        await rig.app.starting
        yield rig
