"""One local engine on the real vLLM, in this process, for all tests of the folder."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.settings import TelemetrySettings
from spillway.telemetry.collector import Collector
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK
from spillway.v1 import engine_pb2_grpc, inference_pb2_grpc

START_S = 300.0
CONTEXT = 512
PART = 256
"""Tokens of a longer prompt that are computed at once."""


@dataclass
class Client:
    """Calls one local engine."""

    remote: Remote
    tracing: Tracing
    collector: Collector
    inference: Any = field(init=False)
    telemetry: Any = field(init=False)

    def __post_init__(self) -> None:
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        self.telemetry = engine_pb2_grpc.EngineTelemetryServiceStub(self.remote.channel)

    def stream(self, spec: v1.GenerationSpec, call: Call | None = None) -> Any:
        request = v1.StreamGenerateRequest(spec=spec)
        return self.remote.stream(self.inference.StreamGenerate, request, call or self.call(), span_name="test")

    async def events(self, spec: v1.GenerationSpec, call: Call | None = None) -> list[v1.GenerationEvent]:
        async with self.stream(spec, call) as responses:
            return [response.event async for response in responses]

    async def generate(self, spec: v1.GenerationSpec, call: Call | None = None) -> v1.GenerateResponse:
        request = v1.GenerateRequest(spec=spec)
        return await self.remote.unary(self.inference.Generate, request, call or self.call(), span_name="test")

    async def load(self) -> v1.Load:
        response = await self.remote.unary(self.telemetry.GetLoad, v1.GetLoadRequest(), self.call(), span_name="test")
        return response.load  # type: ignore[no-any-return]

    def call(self, seconds: float = 60.0) -> Call:
        return Call("test", Deadline.after(seconds))

    async def idle(self) -> None:
        """Wait until the engine has nothing to do."""
        async with asyncio.timeout(10):
            while True:
                load = await self.load()
                if not load.running and not load.waiting:
                    return


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client() -> AsyncIterator[Client]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    from services.local_engine.app import build
    from services.local_engine.settings import (
        CpuSettings,
        FillInTheMiddleSettings,
        LocalEngineSettings,
        VllmSettings,
    )

    async with Collector().serving() as collector:
        telemetry = TelemetrySettings(otlp_endpoint=collector.endpoint, export_interval_s=0.1)
        settings = LocalEngineSettings(
            server=LOOPBACK,
            telemetry=telemetry,
            vllm=VllmSettings(
                max_model_len=CONTEXT,
                max_num_batched_tokens=PART,
                cpu=CpuSettings(kv_cache_gib=0.25),
                # The bundled model was taught none: any tokens of its own show that the frame is these.
                fill_in_the_middle=FillInTheMiddleSettings(
                    prefix="<|user|>", suffix="<|system|>", middle="<|assistant|>"
                ),
            ),
        )
        async with build(settings) as app:
            async with asyncio.timeout(START_S):
                await app.starting
            tracing = Tracing("test", telemetry)
            remote = Remote(app.server.address, tracing=tracing)
            yield Client(remote, tracing, collector)
            await remote.close()
            tracing.close()
