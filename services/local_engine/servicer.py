"""The local engine's rpcs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from services.local_engine.engine import Engine
from spillway import load, v1
from spillway.generation import Folder
from spillway.health import Health
from spillway.rpc import metadata
from spillway.rpc.call import current_call
from spillway.rpc.server import Service
from spillway.v1 import engine_pb2_grpc, inference_pb2_grpc

INFERENCE, TELEMETRY = "spillway.v1.InferenceService", "spillway.v1.EngineTelemetryService"


class Servicer(inference_pb2_grpc.InferenceServiceServicer, engine_pb2_grpc.EngineTelemetryServiceServicer):
    """InferenceService and EngineTelemetryService over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._headers = (
            (metadata.TARGET, metadata.ascii_value(engine.target)),
            (metadata.MODEL, metadata.ascii_value(engine.model)),
        )
        self.health: Health | None = None
        """Of the server this is served by; set by the composition root."""

    async def Generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        folder = Folder()
        async with aclosing(self._engine.generate(request.spec, current_call(), whole=True)) as events:
            async for event in events:
                if event.HasField("started"):
                    await context.send_initial_metadata(self._headers)
                folder.add(event)
        return folder.whole()

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        async with aclosing(self._engine.generate(request.spec, current_call())) as events:
            async for event in events:
                if event.HasField("started"):
                    await context.send_initial_metadata(self._headers)
                yield v1.StreamGenerateResponse(event=event)

    async def CountTokens(self, request: v1.CountTokensRequest, context: Any) -> v1.CountTokensResponse:
        count = await self._engine.count_tokens(request.spec)
        return v1.CountTokensResponse(tokens=count.tokens, exact=count.exact, model=self._engine.model)

    async def ListModels(self, request: v1.ListModelsRequest, context: Any) -> v1.ListModelsResponse:
        return v1.ListModelsResponse(models=self._engine.models())

    async def GetLoad(self, request: v1.GetLoadRequest, context: Any) -> v1.GetLoadResponse:
        return v1.GetLoadResponse(load=self._load())

    def WatchLoad(self, request: v1.WatchLoadRequest, context: Any) -> AsyncIterator[v1.WatchLoadResponse]:
        return load.watch(request, self._load)

    def _load(self) -> v1.Load:
        return self._engine.load(draining=self.health is not None and not self.health.ready)


def services(servicer: Servicer) -> list[Service]:
    """What a server needs to serve `servicer`."""
    return [
        Service(INFERENCE, servicer, inference_pb2_grpc.add_InferenceServiceServicer_to_server),
        Service(TELEMETRY, servicer, engine_pb2_grpc.add_EngineTelemetryServiceServicer_to_server),
    ]
