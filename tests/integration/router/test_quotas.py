"""Quotas that cloud proxies tell a router, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest

from services.router.app import build
from services.router.policy_settings import PolicySettings, TargetSettings
from services.router.quota_watch import quota_watch
from services.router.quotas import Quotas
from services.router.settings import RouterSettings
from services.router.target import Target
from services.router.watch import Watches
from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.rpc.server import Service
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, services
from spillway.testing.server import LOOPBACK, serving
from spillway.testing.waiting import eventually
from spillway.v1 import cloud_pb2_grpc, inference_pb2_grpc, router_admin_pb2_grpc, router_pb2_grpc
from tests.integration.router.mesh import CAPABILITIES, text

pytestmark = pytest.mark.usefixtures("logs_come_back")


class FakeProxy(cloud_pb2_grpc.CloudProxyServiceServicer):
    """Tells each of its watchers the last word on every target, then what changes; nothing while it is mute."""

    def __init__(self) -> None:
        self.quotas: dict[str, v1.Quota] = {}
        self.watchers = self.watched = 0
        self.mute = False
        self._changed = asyncio.Event()

    def tell(self, quota: v1.Quota) -> None:
        self.quotas[quota.target] = quota
        self._changed.set()
        self._changed = asyncio.Event()

    async def WatchQuotas(self, request: v1.WatchQuotasRequest, context: Any) -> AsyncIterator[v1.WatchQuotasResponse]:
        self.watchers, self.watched, sequence = self.watchers + 1, self.watched + 1, 0
        told: dict[str, v1.Quota] = {}
        try:
            while True:
                changed = self._changed
                news = [quota for name, quota in self.quotas.items() if told.get(name) is not quota]
                told = dict(self.quotas)
                if not self.mute:
                    yield v1.WatchQuotasResponse(sequence=sequence, quotas=news)
                sequence += 1
                await changed.wait()
        finally:
            self.watchers -= 1

    async def ListProviders(self, request: v1.ListProvidersRequest, context: Any) -> v1.ListProvidersResponse:
        return v1.ListProvidersResponse()

    async def EstimateCost(self, request: v1.EstimateCostRequest, context: Any) -> v1.EstimateCostResponse:
        return v1.EstimateCostResponse()


def service(proxy: FakeProxy) -> Service:
    add = cloud_pb2_grpc.add_CloudProxyServiceServicer_to_server
    return Service("spillway.v1.CloudProxyService", proxy, add)


def requests_left(remaining: int, **more: Any) -> v1.RateLimit:
    return v1.RateLimit(name="requests_per_minute", limit=500, remaining=remaining, **more)


def quota(target: str, remaining: int) -> v1.Quota:
    return v1.Quota(target=target, limits=[requests_left(remaining)])


@dataclass
class Clouds:
    """A router before two providers, each behind a proxy of its own."""

    remote: Remote
    proxies: dict[str, FakeProxy]
    quotas: Quotas

    def __post_init__(self) -> None:
        channel = self.remote.channel
        self._generate = inference_pb2_grpc.InferenceServiceStub(channel).Generate
        self._explain = router_pb2_grpc.RouterServiceStub(channel).ExplainRoute
        self._status = router_admin_pb2_grpc.RouterAdminServiceStub(channel).GetStatus

    async def _ask(self, method: Any, request: Any) -> Any:
        return await self.remote.unary(method, request, Call("test", Deadline.after(10.0)), span_name="test")

    async def started(self) -> v1.Started:
        response: v1.GenerateResponse = await self._ask(self._generate, v1.GenerateRequest(spec=text()))
        return response.started

    async def plan(self) -> v1.Plan:
        response: v1.ExplainRouteResponse = await self._ask(self._explain, v1.ExplainRouteRequest(spec=text()))
        return response.plan

    async def no_room(self) -> dict[str, str]:
        status: v1.GetStatusResponse = await self._ask(self._status, v1.GetStatusRequest())
        return {target.target: target.no_room for target in status.targets}

    async def tell(self, name: str, **left: Any) -> None:
        """Have the proxy of `name` tell of its target, and the router hear it."""
        self.proxies[name].tell(v1.Quota(target=f"{name}/big", **left))
        before = self.quotas.snapshot().get(name)
        await eventually(lambda: self.quotas.snapshot().get(name) is not before)


@asynccontextmanager
async def running_clouds() -> AsyncIterator[Clouds]:
    async with AsyncExitStack() as stack:
        proxies = {"first": FakeProxy(), "second": FakeProxy()}
        targets = []
        for name, proxy in proxies.items():
            engine = FakeEngine(model=f"{name}/big")
            server = await stack.enter_async_context(serving(*services(engine), service(proxy)))
            targets.append(
                TargetSettings(
                    name=name,
                    kind="cloud",
                    address=server.address,
                    model=f"{name}/big",
                    region="eu",
                    capabilities=CAPABILITIES,
                )
            )
        policy = PolicySettings(order=("first", "second"))
        settings = RouterSettings(server=LOOPBACK, targets=tuple(targets), policy=policy)
        app = await stack.enter_async_context(build(settings, keep=lambda attempt, call: None))
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        await eventually(lambda: all(proxy.watchers == 1 for proxy in proxies.values()))
        yield Clouds(remote, proxies, app.router.planner.quotas)


async def test_a_provider_that_is_out_of_quota_is_asked_second_until_it_has_room_again() -> None:
    async with running_clouds() as clouds:
        assert (await clouds.started()).target == "first"
        await clouds.tell("first", limits=[requests_left(0, free_in_ms=60_000)])
        started, plan = await clouds.started(), await clouds.plan()
        assert started.target == "second"
        assert "as first has no room" in started.route_reason
        assert "as first has no room" in plan.reason
        assert [candidate.target for candidate in plan.candidates if candidate.taken] == ["second", "first"]
        assert "0 of 500 requests per minute left" in plan.candidates[1].reasons[0]
        no_room = await clouds.no_room()
        assert no_room["first"].startswith("0 of 500 requests per minute left, for ")
        assert not no_room["second"]

        await clouds.tell("first", limits=[requests_left(3)])
        assert (await clouds.started()).target == "first"


async def test_with_no_room_anywhere_all_are_tried_all_the_same() -> None:
    async with running_clouds() as clouds:
        for name in clouds.proxies:
            await clouds.tell(name, closed_ms=60_000, closed_why="PROVIDER_RATE_LIMITED")
        started = await clouds.started()
        assert started.target == "first"
        assert "though it has no room: closed for" in started.route_reason


# The watch alone


@dataclass
class Watched:
    quotas: Quotas
    watches: Watches[v1.WatchQuotasResponse]

    @property
    def known(self) -> dict[str, int | None]:
        """What is left of the one limit of each target of which something is known."""
        return {name: quota.allowances[0].remaining for name, quota in self.quotas.snapshot().items()}


@asynccontextmanager
async def watching(*, silence_s: float = 30.0) -> AsyncIterator[Watched]:
    quotas = Quotas()
    subject = replace(quota_watch(quotas, time.monotonic), silence_s=silence_s)
    watches = Watches(subject, lambda address: Remote(address, tracing=Tracing("test")), draw=lambda: 0.0)
    try:
        yield Watched(quotas, watches)
    finally:
        await watches.close()


def cloud(name: str, address: str, **more: Any) -> Target:
    return Target(name, "cloud", address, f"{name}/big", **more)


async def test_one_stream_tells_of_every_target_at_an_address_and_of_no_other() -> None:
    proxy = FakeProxy()
    for number, name in enumerate(("a", "b", "c")):
        proxy.tell(quota(f"{name}/big", number))
    async with watching() as watched, serving(service(proxy)) as server:
        watched.watches.adopt([cloud("a", server.address), cloud("b", server.address)])
        await eventually(lambda: watched.known == {"a": 0, "b": 1})
        proxy.tell(quota("b/big", 9))
        await eventually(lambda: watched.known == {"a": 0, "b": 9})
        assert proxy.watched == 1


async def test_a_target_that_comes_is_told_of_too_and_one_that_goes_is_forgotten() -> None:
    proxy = FakeProxy()
    for name in ("a", "b"):
        proxy.tell(quota(f"{name}/big", 5))
    async with watching() as watched, serving(service(proxy)) as server:
        watched.watches.adopt([cloud("a", server.address)])
        await eventually(lambda: watched.known == {"a": 5})
        watched.watches.adopt([cloud("a", server.address), cloud("b", server.address)])
        await eventually(lambda: watched.known == {"a": 5, "b": 5})
        watched.watches.adopt([cloud("b", server.address)])
        await eventually(lambda: watched.known == {"b": 5})
        watched.watches.adopt([])
        assert watched.known == {}
        await eventually(lambda: proxy.watchers == 0)


async def test_local_targets_and_routers_are_not_asked() -> None:
    async with watching() as watched:
        watched.watches.adopt([Target("local", "local", "a:1"), cloud("there", "b:1", router=True)])
        assert repr(watched.watches) == "<Watches of quotas 0>"


async def test_a_lost_proxy_is_unknown() -> None:
    proxy = FakeProxy()
    proxy.tell(quota("a/big", 0))
    async with watching() as watched:
        async with serving(service(proxy)) as server:
            watched.watches.adopt([cloud("a", server.address)])
            await eventually(lambda: watched.known == {"a": 0})
        await eventually(lambda: watched.known == {})


async def test_a_silent_proxy_is_asked_anew_and_unknown_if_it_still_says_nothing() -> None:
    proxy = FakeProxy()
    proxy.tell(quota("a/big", 0))
    async with watching(silence_s=0.2) as watched, serving(service(proxy)) as server:
        watched.watches.adopt([cloud("a", server.address)])
        await eventually(lambda: watched.known == {"a": 0} and proxy.watched >= 2)
        proxy.mute = True
        await eventually(lambda: watched.known == {})
        proxy.mute = False
        await eventually(lambda: watched.known == {"a": 0})


async def test_an_older_proxy_that_tells_nothing_of_quotas_is_unknown_and_asked_again_now_and_then() -> None:
    asked = asyncio.Event()

    class Older(grpc.aio.ServerInterceptor):
        """Sees what is asked of a server that does not have it."""

        async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
            if details.method.endswith("/WatchQuotas"):
                asked.set()
            return await continuation(details)

    server = grpc.aio.server(interceptors=[Older()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with watching() as watched:
            watched.watches.adopt([cloud("a", f"127.0.0.1:{port}")])
            for _ in range(2):
                async with asyncio.timeout(10):
                    await asked.wait()
                asked.clear()
            assert watched.known == {}
    finally:
        await server.stop(None)
