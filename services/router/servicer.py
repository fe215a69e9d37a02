"""The router's rpcs: convert, call, convert."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from spillway import v1
from spillway.rpc import metadata
from spillway.rpc.call import Call, current_call
from spillway.rpc.lane import Lane
from spillway.rpc.outflow import Outflow
from spillway.rpc.server import Service
from spillway.rpc.sign import sign_of_life
from spillway.session.server import Request, Sessions
from spillway.v1 import inference_pb2_grpc, router_admin_pb2_grpc, router_pb2_grpc

from .admin_servicer import ADMIN_SERVICE, AdminServicer
from .leases import Leases
from .reading import tell_models, tell_plan
from .router import Router
from .siblings import Siblings
from .status import Status


class RouterServicer(inference_pb2_grpc.InferenceServiceServicer, router_pb2_grpc.RouterServiceServicer):
    """InferenceService and RouterService over one `Router`."""

    def __init__(self, router: Router, sessions: Sessions) -> None:
        self._router = router
        self._sessions = sessions

    async def Generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        _by_key(request)
        if not request.HasField("stamp"):
            response = await self._router.generate(request, current_call())
            context.set_trailing_metadata(_headers(response.started))
            return response
        # The router before this one waits for a sign of life: the first token, here as at an engine.
        async with sign_of_life(context, metadata.ALIVE) as alive:
            return await self._router.generate(request, current_call(), alive)

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[Any]:  # StreamGenerateResponse, or its bytes with the event unread
        _by_key(request)
        outflow = Outflow()
        made = await self._router.stream(request, current_call(), outflow.lane)
        async with aclosing(outflow.events(made)) as events:
            async for event in events:
                if isinstance(event, bytes):
                    yield v1.RawStreamGenerateResponse(event=event)
                    continue
                if event.HasField("started") and event.sequence == 0:
                    await context.send_initial_metadata(_headers(event.started))
                yield v1.StreamGenerateResponse(event=event)

    def Session(self, requests: AsyncIterator[v1.SessionRequest], context: Any) -> Any:
        return self._sessions.serve(requests)

    async def Embed(self, request: v1.EmbedRequest, context: Any) -> v1.EmbedResponse:
        _by_key(request)
        if not request.HasField("stamp"):
            response = await self._router.embed(request, current_call())
            context.set_trailing_metadata(_headers(response))
            return response
        async with sign_of_life(context, metadata.ALIVE) as alive:
            return await self._router.embed(request, current_call(), alive)

    async def CountTokens(self, request: v1.CountTokensRequest, context: Any) -> v1.CountTokensResponse:
        call, policy = current_call(), v1.RoutingPolicy()
        call.caller.defaults.fill(request.spec, policy)
        return await self._router.planner.count_tokens(request.spec, policy, call)

    async def ListModels(self, request: v1.ListModelsRequest, context: Any) -> v1.ListModelsResponse:
        return v1.ListModelsResponse(models=tell_models(self._router.book))

    async def ExplainRoute(self, request: v1.ExplainRouteRequest, context: Any) -> v1.ExplainRouteResponse:
        _by_key(request)
        call = current_call()
        plan = await self._router.planner.explain(request.spec, request.policy, call, request.stamp.data_policy)
        onward = await self._router.planner.explain_onward(plan, request.spec, request.policy, call)
        return v1.ExplainRouteResponse(plan=tell_plan(plan, onward))


def _by_key(
    request: v1.GenerateRequest | v1.StreamGenerateRequest | v1.EmbedRequest | v1.ExplainRouteRequest,
) -> None:
    """Lay the defaults of the caller's key under `request`; of one for others only what concerns content and cost.

    Whether there is a stamp is the caller's word, so that alone must loosen nothing.
    """
    defaults = current_call().caller.defaults
    if request.HasField("stamp"):
        defaults.bind(request.policy)
    else:
        defaults.fill(request.spec, request.policy)


def _headers(started: v1.Started | v1.EmbedResponse) -> tuple[tuple[str, str], ...]:
    return (
        (metadata.TARGET, metadata.ascii_value(started.target)),
        (metadata.MODEL, metadata.ascii_value(started.model)),
        (metadata.ROUTE_REASON, metadata.ascii_value(started.route_reason)),
    )


async def answer(
    router: Router, request: v1.GenerateRequest, call: Call, alive: Callable[[], None]
) -> v1.GenerateResponse:
    """Return what `router` answers to `request`, which came in a session."""
    _by_key(request)
    if not request.HasField("stamp"):
        return await router.generate(request, call)
    return await router.generate(request, call, alive)


async def events(router: Router, request: Request, call: Call, lane: Lane) -> AsyncGenerator[v1.GenerationEvent]:
    """Return what `router` answers to `request`, which came in a session, but for deltas that go by `lane`."""
    assert isinstance(request, v1.StreamGenerateRequest)  # `answer` has the others
    _by_key(request)
    return await router.stream(request, call, lane)


def services(router: Router, status: Status, leases: Leases, sessions: Sessions, siblings: Siblings) -> list[Service]:
    """What a server needs to serve `router` and tell its `status`, with its `siblings`, and what `leases` there are."""
    servicer = RouterServicer(router, sessions)
    return [
        Service(
            "spillway.v1.InferenceService",
            servicer,
            inference_pb2_grpc.add_InferenceServiceServicer_to_server,
            sessions,
        ),
        Service("spillway.v1.RouterService", servicer, router_pb2_grpc.add_RouterServiceServicer_to_server),
        Service(
            ADMIN_SERVICE,
            AdminServicer(status, leases, siblings),
            router_admin_pb2_grpc.add_RouterAdminServiceServicer_to_server,
        ),
    ]
