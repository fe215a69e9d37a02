"""A router before a cloud proxy with limits: it asks those providers first that have room."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing

import pytest

from services.cloud_proxy.app import build as build_proxy
from services.cloud_proxy.servicer import CloudProxyServicer
from services.cloud_proxy.settings import CloudProxySettings, LimitSettings, ModelSettings, ProviderSettings
from services.router.app import build
from services.router.policy_settings import PolicySettings, TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import chat

pytestmark = [
    pytest.mark.usefixtures("logs_come_back"),
    # A proxy that does not tell its quotas leaves nothing to see here.
    pytest.mark.skipif("WatchQuotas" not in vars(CloudProxyServicer), reason="this proxy does not serve WatchQuotas"),
]

LIMITS: dict[str, dict[str, int]] = {"first/big": {"concurrency": 1}, "second/big": {}}


async def test_a_provider_with_no_room_for_another_call_is_asked_second_until_the_one_that_runs_has_ended() -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(embedded_valkey())
        providers = []
        for target, limits in LIMITS.items():
            name, _, model = target.partition("/")
            simulator = OpenAISimulator(answer=lambda body: "word " * 5000, interval_s=0.01)
            base_url = await stack.enter_async_context(serving_openai(simulator))
            providers.append(
                ProviderSettings(
                    name=name,
                    base_url=base_url,
                    region="eu",
                    simulated=True,
                    limits=LimitSettings.model_validate(limits),
                    models=(ModelSettings(name=model),),
                )
            )
        settings = CloudProxySettings(server=LOOPBACK, store=StoreSettings(url=store), providers=tuple(providers))
        proxy = await stack.enter_async_context(build_proxy(settings, environ={}))
        targets = tuple(
            TargetSettings(name=target, kind="cloud", address=proxy.server.address, model=target, region="eu")
            for target in LIMITS
        )
        routing = RouterSettings(server=LOOPBACK, targets=targets, policy=PolicySettings(order=tuple(LIMITS)))
        app = await stack.enter_async_context(build(routing, keep=lambda attempt, call: None))
        router, quotas = app.router, app.router.planner.quotas

        async def first() -> str:
            plan = await router.planner.explain(chat(), v1.RoutingPolicy(), Call("test", Deadline.after(10)))
            return plan.taken[0].target.name

        def has_room(name: str) -> bool:
            quota = quotas.snapshot().get(name)
            return quota is not None and not quota.objection(1, 0.0)

        await eventually(lambda: has_room("first/big") and has_room("second/big"))
        assert await first() == "first/big"
        request = v1.StreamGenerateRequest(spec=chat())
        async with aclosing(await router.stream(request, Call("long", Deadline.after(30)))) as answer:
            await anext(answer)
            await eventually(lambda: not has_room("first/big"))
            assert await first() == "second/big"
        await eventually(lambda: has_room("first/big"))
        assert await first() == "first/big"
