"""The local engine's rpcs."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from services.local_engine import support
from services.local_engine.adapter_source import wrong
from services.local_engine.adapters import Adapters
from services.local_engine.engine import Engine
from spillway import load, v1
from spillway.generation import Folder
from spillway.rpc import metadata
from spillway.rpc.call import current_call
from spillway.rpc.keys import ADMIN
from spillway.rpc.server import Service
from spillway.rpc.sign import sign_of_life
from spillway.session.server import Sessions
from spillway.v1 import engine_admin_pb2_grpc, engine_pb2_grpc, inference_pb2_grpc

INFERENCE, TELEMETRY = "spillway.v1.InferenceService", "spillway.v1.EngineTelemetryService"
ADMIN_SERVICE = "spillway.v1.EngineAdminService"
SCOPES = {ADMIN_SERVICE: ADMIN}
"""What a caller's key must be for, where it is not `generate`."""


class Servicer(inference_pb2_grpc.InferenceServiceServicer, engine_pb2_grpc.EngineTelemetryServiceServicer):
    """InferenceService and EngineTelemetryService over one engine."""

    def __init__(self, engine: Engine, sessions: Sessions) -> None:
        self._engine = engine
        self._sessions = sessions
        self._headers = (
            (metadata.TARGET, metadata.ascii_value(engine.target)),
            (metadata.MODEL, metadata.ascii_value(engine.model)),
        )

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

    def Session(self, requests: AsyncIterator[v1.SessionRequest], context: Any) -> Any:
        return self._sessions.serve(requests)

    async def Embed(self, request: v1.EmbedRequest, context: Any) -> v1.EmbedResponse:
        async with sign_of_life(context, self._headers) as alive:
            return await self._engine.embed(request.spec, current_call(), alive)

    async def CountTokens(self, request: v1.CountTokensRequest, context: Any) -> v1.CountTokensResponse:
        count = await self._engine.count_tokens(request.spec)
        return v1.CountTokensResponse(tokens=count.tokens, exact=count.exact, model=self._engine.model)

    async def ListModels(self, request: v1.ListModelsRequest, context: Any) -> v1.ListModelsResponse:
        return v1.ListModelsResponse(models=self._engine.models())

    async def GetLoad(self, request: v1.GetLoadRequest, context: Any) -> v1.GetLoadResponse:
        return v1.GetLoadResponse(load=self._engine.load())

    def WatchLoad(self, request: v1.WatchLoadRequest, context: Any) -> AsyncIterator[v1.WatchLoadResponse]:
        return load.watch(request, self._engine.load)


class AdminServicer(engine_admin_pb2_grpc.EngineAdminServiceServicer):
    """EngineAdminService. `drain` has the process end, given how many seconds running calls may take to."""

    def __init__(self, engine: Engine, drain: Callable[[float | None], None]) -> None:
        self._engine = engine
        self._drain = drain

    async def LoadAdapter(self, request: v1.LoadAdapterRequest, context: Any) -> v1.LoadAdapterResponse:
        adapters = self._adapters()
        await adapters.load(request.name, request.path)
        (told,) = adapters.told(request.name)
        return v1.LoadAdapterResponse(adapter=told)

    async def UnloadAdapter(self, request: v1.UnloadAdapterRequest, context: Any) -> v1.UnloadAdapterResponse:
        await self._adapters().unload(request.name)
        return v1.UnloadAdapterResponse()

    async def ListAdapters(self, request: v1.ListAdaptersRequest, context: Any) -> v1.ListAdaptersResponse:
        adapters = self._engine.adapters
        if adapters is None:
            return v1.ListAdaptersResponse()
        return v1.ListAdaptersResponse(adapters=adapters.told(), max_loaded=adapters.max_loaded)

    async def Drain(self, request: v1.DrainRequest, context: Any) -> v1.DrainResponse:
        grace_s = request.grace_s if request.HasField("grace_s") else None
        if grace_s is not None and not 0 <= grace_s < math.inf:
            raise wrong("grace_s", "is a number of seconds from 0 up")
        self._drain(grace_s)
        return v1.DrainResponse(running=self._engine.running)

    def _adapters(self) -> Adapters:
        if self._engine.adapters is None:
            raise support.unsupported("name", "this engine takes no adapters: see local_engine.vllm.adapters")
        return self._engine.adapters


def services(servicer: Servicer, admin: AdminServicer, sessions: Sessions) -> list[Service]:
    """What a server needs to serve both."""
    return [
        Service(ADMIN_SERVICE, admin, engine_admin_pb2_grpc.add_EngineAdminServiceServicer_to_server),
        Service(INFERENCE, servicer, inference_pb2_grpc.add_InferenceServiceServicer_to_server, sessions),
        Service(TELEMETRY, servicer, engine_pb2_grpc.add_EngineTelemetryServiceServicer_to_server),
    ]
