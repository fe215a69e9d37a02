"""Budgets of tenants, on a real store that routers share."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from services.router.app import App, build
from services.router.budget import Budget
from services.router.policy_settings import BudgetSettings, PolicySettings, PriceSettings, TargetSettings
from services.router.reading import tell_plan
from services.router.settings import RouterSettings
from services.router.spend import Hold, Spend
from services.router.spend_scripts import CALENDAR, keys
from services.router.spend_settings import SpendSettings
from services.router.status import Status
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import CostCap, TargetDown
from spillway.rpc.call import Call, Caller
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.store.redis import Script as LuaScript
from spillway.store.redis import Store
from spillway.testing.clock import HandClock
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Refuse, Script, Silence
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import CAPABILITIES, chat

COST = 1_000_000
"""About what one answer of the cloud costs, in 1e-9 USD: it charges for the answer's tokens alone."""
TOKENS = 10
COMPLEX = v1.RoutingPolicy(category=v1.CATEGORY_COMPLEX)
BUDGET = Budget(day=10 * COST)


def patient(url: str) -> StoreSettings:
    """So that a busy machine is not taken for a store that is away."""
    return StoreSettings(url=url, timeout_s=1.0)


def asked() -> v1.GenerationSpec:
    spec = chat()
    spec.sampling.max_tokens = TOKENS
    return spec


@dataclass
class Site:
    """Routers before one engine that is free and a cloud that is not."""

    local: FakeEngine
    cloud: FakeEngine
    apps: list[App]
    store: Store

    async def generate(
        self, router: int = 0, tenant: str = "t", policy: v1.RoutingPolicy = COMPLEX, deadline_s: float = 20.0
    ) -> v1.GenerateResponse:
        call = Call("test", Deadline.after(deadline_s), caller=Caller(tenant))
        return await self.apps[router].router.generate(v1.GenerateRequest(spec=asked(), policy=policy), call)

    async def totals(self, tenant: str = "t") -> dict[str, int]:
        """What the store has counted."""
        found: Any = self.store.redis.hgetall(keys(tenant)[0])
        return {name.decode(): int(value) for name, value in (await found).items()}

    async def settled(self) -> dict[str, int]:
        """What the store has counted, once nothing is held or owed any more."""
        await eventually(lambda: all("0 owed" in repr(app.router.spend) for app in self.apps))
        return await self.totals()


@asynccontextmanager
async def running_site(
    budget: BudgetSettings | None, *, routers: int = 1, policy: dict[str, Any] | None = None, url: str = ""
) -> AsyncIterator[Site]:
    local = FakeEngine(model="small")
    cloud = FakeEngine(model="big", answer=lambda spec: "cloud")
    async with AsyncExitStack() as stack:
        url = url or await stack.enter_async_context(embedded_valkey())
        on_site = await stack.enter_async_context(serving_engine(local))
        away = await stack.enter_async_context(serving_engine(cloud))
        free = PriceSettings(input_usd_per_mtok=0, output_usd_per_mtok=0)
        dear = PriceSettings(input_usd_per_mtok=0, output_usd_per_mtok=COST / TOKENS / 1000)
        settings = RouterSettings(
            server=LOOPBACK,
            store=patient(url),
            spend=SpendSettings(look_s=0),
            targets=(
                TargetSettings(
                    name="local", kind="local", address=on_site.address, capabilities=CAPABILITIES, price=free
                ),
                TargetSettings(
                    name="cloud", kind="cloud", address=away.address, region="us", capabilities=CAPABILITIES, price=dear
                ),
            ),
            policy=PolicySettings(budget=budget, **(policy or {})),
        )
        apps = [
            await stack.enter_async_context(build(settings, keep=lambda attempt, call: None)) for _ in range(routers)
        ]
        store = Store(patient(url))
        stack.push_async_callback(store.close)
        yield Site(local, cloud, apps, store)


def usd(answers: float, **options: Any) -> BudgetSettings:
    """A budget for so many answers a day."""
    return BudgetSettings(usd_per_day=answers * COST / 1e9, **options)


async def test_what_an_answer_cost_is_spent_and_nothing_stays_held() -> None:
    async with running_site(usd(100)) as site:
        response = await site.generate()
        assert response.started.target == "cloud"
        found = await site.settled()
        assert found["day_spent"] == found["month_spent"] == response.usage.cost_nano_usd > 0
        assert found["held"] == 0
        for key in keys("t"):
            assert 0 < await site.store.redis.pttl(key) <= 32 * 86_400_000
        router = site.apps[0].router
        assert router.spend.charged_nano_usd == response.usage.cost_nano_usd
        (told,) = Status("r", router, time.monotonic, 0.0).told().spend
        assert (told.tenant, told.day_nano_usd, told.held_nano_usd) == ("t", found["day_spent"], 0)
        assert 0 < told.day_left_s <= 86_400 * 31 >= told.month_left_s > 0


async def test_when_the_budget_is_spent_the_free_target_answers_and_the_plan_says_why() -> None:
    async with running_site(usd(0.5)) as site:
        response = await site.generate()
        assert response.started.target == "local"
        call = Call("test", Deadline.after(5), caller=Caller("t"))
        plan = await site.apps[0].router.planner.explain(asked(), COMPLEX, call)
        (told,) = tell_plan(plan).budget
        assert (told.period, told.cap_nano_usd, told.left_nano_usd) == ("day", COST // 2, COST // 2)
        assert 0 < told.renews_s <= 86_400
        assert plan.left_out[0].reasons[0].startswith("the tenant's budget is spent: 0.0005 USD of 0.0005 USD left")
        assert not site.cloud.seen


async def test_with_refuse_a_spent_budget_is_a_cost_cap_that_says_until_when() -> None:
    async with running_site(usd(1.5, when_spent="refuse")) as site:
        site.cloud.answer = lambda spec: "a b c d e f g h i j"
        assert (await site.generate()).started.target == "cloud"
        await site.settled()
        with pytest.raises(CostCap) as caught:
            await site.generate()
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s <= 86_400
        assert caught.value.metadata["day_cap_nano_usd"] == str(COST * 3 // 2)
        assert not site.local.seen
        assert (await site.generate(policy=v1.RoutingPolicy())).started.target == "local"


async def test_routers_that_share_a_store_never_overspend_however_many_requests_run_at_once() -> None:
    async with running_site(usd(7), routers=2) as site:
        site.cloud.answer = lambda spec: "a b c d e f g h i j"
        answers = await asyncio.gather(*(site.generate(router=number % 2) for number in range(40)))
        found = await site.settled()
        costs = sum(answer.usage.cost_nano_usd for answer in answers)
        assert found["day_spent"] == costs <= 7 * COST
        assert found["held"] == 0
        assert len(site.cloud.seen) >= 5
        assert len(site.cloud.seen) + len(site.local.seen) == 40


async def test_tenants_have_a_budget_each() -> None:
    async with running_site(usd(1)) as site:
        assert {(await site.generate(tenant=name)).started.target for name in ("a", "b", "{c}")} == {"cloud"}


async def test_a_failed_or_cancelled_attempt_holds_nothing_afterwards() -> None:
    async with running_site(usd(100), policy={"max_retries_per_target": 0}) as site:
        site.cloud.faults = Script(Refuse(TargetDown("gone")), Silence())
        assert (await site.generate()).started.target == "local"
        assert (await site.settled())["day_spent"] == 0
        request = asyncio.create_task(site.generate())
        await eventually(lambda: site.cloud.running == 1)
        assert (await site.totals())["held"] == COST
        request.cancel()
        with suppress(asyncio.CancelledError):
            await request
        found = await site.settled()
        assert (found["held"], found["day_spent"]) == (0, COST)  # a cancel is not free


async def test_every_attempt_of_a_hedge_counts() -> None:
    async with running_site(usd(100), policy={"strategy": "hedge", "hedge_after_s": 0.01}) as site:
        site.cloud.faults = Script(Silence())
        assert (await site.generate()).started.target == "local"
        assert (await site.settled())["day_spent"] == COST


async def test_a_request_without_a_budget_or_with_free_targets_alone_never_asks_the_store() -> None:
    async with running_site(None) as site:
        assert (await site.generate()).started.target == "cloud"
        assert not await site.totals()
    async with running_site(usd(1), policy={"residency": "local_only"}) as site:
        assert (await site.generate()).started.target == "local"
        assert not await site.totals()


async def test_another_day_and_another_month_begin_at_nothing() -> None:
    async with running_site(usd(1)) as site:
        site.cloud.answer = lambda spec: "a b c d e f g h i j"
        await site.generate()
        await site.settled()
        assert (await site.generate()).started.target == "local"
        today = datetime.now(UTC)
        if today.hour == 23 and today.minute >= 59:
            pytest.skip("the day is about to end by itself")
        totals = await site.totals()
        turned: Any = site.store.redis.hset(keys("t")[0], mapping={"day": totals["day"] - 1})
        await turned
        assert (await site.generate()).started.target == "cloud"
        assert (await site.settled())["month_spent"] == 2 * totals["day_spent"]


async def test_without_the_store_nothing_is_spent_by_a_router_that_knows_nothing_of_the_tenant() -> None:
    async with running_site(usd(10), url="unix:///nowhere.sock") as site:
        assert (await site.generate()).started.target == "local"


@asynccontextmanager
async def spending(
    url: str, clock: HandClock, *, routers: int = 1, settings: SpendSettings | None = None
) -> AsyncIterator[Spend]:
    store = Store(patient(url))
    spend = Spend(settings or SpendSettings(look_s=0), store, clock=clock, routers=lambda: routers)
    await spend.start()
    try:
        yield spend
    finally:
        await spend.close()
        await store.close()


@dataclass
class Halting:
    """A store that can be stopped, with what it holds, and go on."""

    pid: int

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@asynccontextmanager
async def halting(url: str) -> AsyncIterator[Halting]:
    store = Store(patient(url))
    found: Any = store.redis.info("server")
    halted = Halting((await found)["process_id"])
    await store.close()
    try:
        yield halted
    finally:
        halted.go_on()


async def hold(spend: Spend, answers: float = 1, deadline_s: float = 60.0) -> Hold:
    return await spend.hold("t", BUDGET, round(answers * COST), Deadline.after(deadline_s))


async def left(spend: Spend) -> int:
    return (await spend.look("t", BUDGET)).periods[0].left


async def test_what_a_killed_router_held_is_free_again_when_its_time_is_over() -> None:
    async with embedded_valkey() as url, spending(url, HandClock()) as other:
        settings = SpendSettings(look_s=0, hold_grace_s=0)
        async with spending(url, HandClock(), settings=settings) as killed:
            await hold(killed, 10, deadline_s=0.3)
            with pytest.raises(CostCap):
                await hold(other)
        for _ in range(250):
            if await left(other) == 10 * COST:
                break
            await asyncio.sleep(0.02)  # the store's clock has no other hand
        await hold(other, 10)


async def test_a_hold_is_settled_once_though_it_is_told_twice_and_charged_though_it_has_ended() -> None:
    async with embedded_valkey() as url, spending(url, HandClock()) as spend:
        one = await hold(spend)
        for _ in range(2):
            spend.settle(one, 2 * COST)
            await eventually(lambda: "0 owed" in repr(spend))
        assert await left(spend) == 8 * COST


async def test_nobody_waits_until_the_store_is_told_of_all_that_another_tenant_owes() -> None:
    async with embedded_valkey() as url, spending(url, HandClock()) as spend:
        await left(spend)
        for _ in range(3000):
            spend.settle(Hold("other", 0, 60.0), 0)
        spend.settle(Hold("t", 0, 60.0), 0)
        await eventually(lambda: "3001 owed" not in repr(spend))
        await hold(spend)
        assert not repr(spend).endswith(" 0 owed>")
        await eventually(lambda: repr(spend).endswith(" 0 owed>"))


async def test_while_the_store_is_away_each_router_has_its_share_and_tells_the_store_afterwards() -> None:
    clock = HandClock()
    async with embedded_valkey() as url, spending(url, clock, routers=2) as spend, halting(url) as store:
        assert await left(spend) == 10 * COST
        store.stop()
        assert await left(spend) == 5 * COST
        clock.advance(2.0)  # it is asked again, and may have heard though it does not answer
        running = [await hold(spend) for _ in range(5)]
        with pytest.raises(CostCap) as caught:
            await hold(spend)
        assert caught.value.metadata["day_left_nano_usd"] == "0"
        spend.settle(running.pop(), COST // 2)
        assert await left(spend) == COST // 2
        store.go_on()
        clock.advance(2.0)
        await hold(spend)  # before it, the store is told of all that runs and was spent
        assert await left(spend) == 10 * COST - 4 * COST - COST // 2 - COST


async def test_the_stores_calendar_is_the_worlds() -> None:
    days = range(0, 60_000, 13)
    script = LuaScript(
        f"{CALENDAR} local found = {{}} for day = {days.start}, {days.stop - 1}, {days.step} do "
        "found[#found + 1] = month_of(day) found[#found + 1] = first_of(month_of(day) + 1) end return found"
    )
    async with embedded_valkey() as url:
        store = Store(patient(url))
        found = await store.run(script, [], [])
        await store.close()
    expected = []
    for number in days:
        day = date(1970, 1, 1) + timedelta(number)
        following = (day.replace(day=1) + timedelta(32)).replace(day=1)
        expected += [day.year * 12 + day.month - 3, (following - date(1970, 1, 1)).days]
    assert found == expected
