"""The router's rpcs: convert, call, convert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from spillway import v1
from spillway.rpc import metadata
from spillway.rpc.call import current_call
from spillway.rpc.server import Service
from spillway.v1 import inference_pb2_grpc, router_pb2_grpc

from .reading import tell_plan, tell_target
from .router import Router


class RouterServicer(inference_pb2_grpc.InferenceServiceServicer, router_pb2_grpc.RouterServiceServicer):
    """InferenceService and RouterService over one `Router`."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def Generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        response = await self._router.generate(request, current_call())
        await context.send_initial_metadata(_headers(response.started))
        return response

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        events = await self._router.stream(request, current_call())
        try:
            async for event in events:
                if event.HasField("started") and event.sequence == 0:
                    await context.send_initial_metadata(_headers(event.started))
                yield v1.StreamGenerateResponse(event=event)
        finally:
            await events.aclose()

    async def CountTokens(self, request: v1.CountTokensRequest, context: Any) -> v1.CountTokensResponse:
        return await self._router.count_tokens(request.spec, current_call())

    async def ListModels(self, request: v1.ListModelsRequest, context: Any) -> v1.ListModelsResponse:
        return v1.ListModelsResponse(models=[tell_target(target) for target in self._router.targets()])

    async def ExplainRoute(self, request: v1.ExplainRouteRequest, context: Any) -> v1.ExplainRouteResponse:
        plan = await self._router.explain(request.spec, request.policy, current_call())
        return v1.ExplainRouteResponse(plan=tell_plan(plan))


def _headers(started: v1.Started) -> tuple[tuple[str, str], ...]:
    return (
        (metadata.TARGET, metadata.ascii_value(started.target)),
        (metadata.MODEL, metadata.ascii_value(started.model)),
        (metadata.ROUTE_REASON, metadata.ascii_value(started.route_reason)),
    )


def services(router: Router) -> list[Service]:
    """What a server needs to serve `router`."""
    servicer = RouterServicer(router)
    return [
        Service("spillway.v1.InferenceService", servicer, inference_pb2_grpc.add_InferenceServiceServicer_to_server),
        Service("spillway.v1.RouterService", servicer, router_pb2_grpc.add_RouterServiceServicer_to_server),
    ]
