"""The cloud proxy's rpcs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from services.cloud_proxy.estimate import estimated
from services.cloud_proxy.keyring import Keyring
from services.cloud_proxy.proxy import CloudProxy, prompt_estimate
from services.cloud_proxy.quotas import Quotas
from services.cloud_proxy.roster import listed
from services.cloud_proxy.route import Route
from spillway import v1
from spillway.generation import Folder, check
from spillway.rpc import metadata
from spillway.rpc.call import current_call
from spillway.session.server import Sessions
from spillway.v1 import cloud_pb2_grpc, inference_pb2_grpc

CAPABILITIES = {
    name.removeprefix("CAPABILITY_").lower(): number
    for name, number in v1.Capability.items()
    if number != v1.CAPABILITY_UNSPECIFIED
}


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Generations by providers."""

    def __init__(self, proxy: CloudProxy, sessions: Sessions) -> None:
        self._proxy = proxy
        self._sessions = sessions

    async def Generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        folder = Folder()
        async with aclosing(self._proxy.generate(request.spec, stamped(request), current_call())) as events:
            async for event in events:
                if event.HasField("started"):
                    await context.send_initial_metadata(_headers(event.started))
                folder.add(event)
        return folder.whole()

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        async with aclosing(self._proxy.generate(request.spec, stamped(request), current_call())) as events:
            async for event in events:
                if event.HasField("started"):
                    await context.send_initial_metadata(_headers(event.started))
                yield v1.StreamGenerateResponse(event=event)

    def Session(self, requests: AsyncIterator[v1.SessionRequest], context: Any) -> Any:
        return self._sessions.serve(requests)

    async def Embed(self, request: v1.EmbedRequest, context: Any) -> v1.EmbedResponse:
        return await self._proxy.embed(request.spec, stamped(request), current_call())

    async def CountTokens(self, request: v1.CountTokensRequest, context: Any) -> v1.CountTokensResponse:
        check(request.spec)
        if request.spec.model:
            self._proxy.find(request.spec.model)
        return v1.CountTokensResponse(tokens=prompt_estimate(request.spec), exact=False, model=request.spec.model)

    async def ListModels(self, request: v1.ListModelsRequest, context: Any) -> v1.ListModelsResponse:
        return v1.ListModelsResponse(models=[_model(route) for route in self._proxy.routes.values()])


class CloudProxyServicer(cloud_pb2_grpc.CloudProxyServiceServicer):
    """What operators and routers may know of the providers."""

    def __init__(self, proxy: CloudProxy, quotas: Quotas, keyrings: Mapping[str, Keyring]) -> None:
        self._proxy = proxy
        self._quotas = quotas
        self._keyrings = keyrings

    async def ListProviders(self, request: v1.ListProvidersRequest, context: Any) -> v1.ListProvidersResponse:
        proxy, call = self._proxy, current_call() if request.ask else None
        return v1.ListProvidersResponse(providers=await listed(proxy.routes, self._quotas, self._keyrings, call))

    def WatchQuotas(self, request: v1.WatchQuotasRequest, context: Any) -> AsyncIterator[v1.WatchQuotasResponse]:
        return self._quotas.watch(request)

    async def EstimateCost(self, request: v1.EstimateCostRequest, context: Any) -> v1.EstimateCostResponse:
        check(request.spec)
        routes, expected = self._proxy.generating(request.spec.model), self._proxy.rationing.expectation.tokens
        return v1.EstimateCostResponse(
            estimates=[estimated(route, request.spec, request.tenant, expected) for route in routes]
        )


def stamped(request: v1.GenerateRequest | v1.StreamGenerateRequest | v1.EmbedRequest) -> v1.PolicyStamp | None:
    return request.stamp if request.HasField("stamp") else None


def _headers(started: v1.Started) -> tuple[tuple[str, str], ...]:
    return (
        (metadata.TARGET, metadata.ascii_value(started.target)),
        (metadata.MODEL, metadata.ascii_value(started.model)),
    )


def _model(route: Route) -> v1.Model:
    return v1.Model(
        name=route.name,
        target=route.name,
        kind=v1.TARGET_KIND_CLOUD,
        region=route.region,
        retention_days=route.retention_days,
        context_window=route.model.context_window,
        capabilities=sorted(CAPABILITIES[name] for name in route.model.capabilities),
    )
