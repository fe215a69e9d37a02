"""Limits that proxies keep together: on a real store, by the real scripts, and alone while the store is away."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from services.cloud_proxy import limiter as limiter_module
from services.cloud_proxy.allowance import Allowance
from services.cloud_proxy.limiter import Limiter, Reservation
from services.cloud_proxy.limits import (
    ALLOWED,
    CLOSED,
    CONCURRENCY,
    INPUT_TOKENS,
    NANO_USD,
    NOTHING,
    OUTPUT_TOKENS,
    REQUESTS,
    TOKENS,
    Amounts,
    Decision,
    Limits,
    Scope,
    Window,
    decide,
)
from services.cloud_proxy.standing import Left
from spillway import v1
from spillway.errors import CostCap, ProviderRateLimited
from spillway.rpc.remote import Remote
from spillway.settings import StoreSettings
from spillway.store.redis import Argument, Script, Store, StoreUnavailable
from spillway.telemetry.tracing import Tracing
from spillway.testing import openai_limits
from spillway.testing.clock import HandClock
from spillway.testing.openai_faults import Cut, Faults, Reset, Stall, rate_limited
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.waiting import eventually
from spillway.v1 import inference_pb2_grpc
from tests.integration.cloud_proxy.rig import NOWHERE, STAMP, Caller, call, declared, running, spec
from tests.integration.processes import started


@asynccontextmanager
async def limiting(url: str, *, replicas: int = 1, clock: Any = None, **more: Any) -> AsyncIterator[Limiter]:
    store = Store(StoreSettings(url=url, timeout_s=5.0))
    try:
        now = clock or asyncio.get_running_loop().time
        yield Limiter(store, name="one", replicas=replicas, clock=now, **more)
    finally:
        await store.close()


PROVIDER = Scope("")


def at_provider(limits: Limits, *, learns: bool = True) -> tuple[Scope, ...]:
    return (Scope("", limits, learns),)


async def take(limiter: Limiter, id: str, limits: Limits | tuple[Scope, ...], *amounts: int) -> Reservation:
    scopes = at_provider(limits) if isinstance(limits, Limits) else limits
    decision, reservation = await limiter.reserve(id, "openai", scopes, Amounts(*amounts))
    assert reservation is not None, decision
    return reservation


async def refusal(limiter: Limiter, limits: Limits | tuple[Scope, ...], *amounts: int) -> Decision:
    scopes = at_provider(limits) if isinstance(limits, Limits) else limits
    decision, reservation = await limiter.reserve("refused", "openai", scopes, Amounts(*amounts))
    assert reservation is None
    return decision


async def counted(limiter: Limiter, scope: Scope = PROVIDER) -> tuple[int, int, int] | None:
    await limiter.settled()
    return (await limiter.look("openai", [scope]))[scope.name].counted


async def left(limiter: Limiter, scope: Scope) -> list[Left]:
    await limiter.settled()
    return list((await limiter.look("openai", [scope]))[scope.name].left())


async def ask(caller: Caller, text: str = "hello", **more: Any) -> ProviderRateLimited | None:
    """The refusal, or None for an answer."""
    try:
        await caller.generate(spec(text, **more), seconds=60)
    except ProviderRateLimited as error:
        return error
    return None


async def test_two_proxies_sharing_one_store_admit_exactly_the_limit(valkey: str, tmp_path: Path) -> None:
    simulator = OpenAISimulator()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving_openai(simulator))
        section = {
            "store": {"url": valkey, "timeout_s": 5.0},
            "providers": [declared(url, limits={"requests_per_minute": 60})],
        }
        callers = []
        for name in ("one", "two"):
            proxy = started("cloud_proxy", section, tmp_path / f"{name}.yaml")
            address, _ = await stack.enter_async_context(proxy)
            remote = Remote(address, tracing=Tracing("test"), name=name)
            stack.push_async_callback(remote.close)
            callers.append(Caller(remote))
        refusals = await asyncio.gather(*(ask(callers[at % 2]) for at in range(500)))
        remaining = (await callers[0].providers()).providers[0].limits[0].remaining
    assert refusals.count(None) == 60
    assert len(simulator.seen) == 60
    assert remaining == 0
    for refused in refusals:
        if refused is not None:
            assert refused.metadata["limit"] == REQUESTS
            assert refused.retry_after_s is not None
            assert 0 < refused.retry_after_s <= 61.25


async def test_tokens_are_reserved_before_the_call_and_settled_to_what_was_used(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, limits={"tokens_per_minute": 100}) as rig:
        assert await ask(rig, sampling=v1.Sampling(max_tokens=95)) is None
        assert await rig.used() == (1, 9)
        refused = await ask(rig, sampling=v1.Sampling(max_tokens=95))
        assert refused is not None
        assert refused.metadata["limit"] == TOKENS
        assert await ask(rig, sampling=v1.Sampling(max_tokens=80)) is None
        alone = await ask(rig, sampling=v1.Sampling(max_tokens=200))
    assert alone is not None
    assert alone.retry_after_s is None
    assert "alone is more" in alone.message


async def test_no_reservation_leaks_on_any_exit_path(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Reset(), Cut(after=1), Stall(after=1), Stall(after=1)))
    async with running(simulator, valkey, limits={"tokens_per_minute": 100_000}) as rig:
        for _ in range(2):
            with pytest.raises(Exception, match="connection failed"):
                await rig.stream(spec())
        with pytest.raises(Exception, match="deadline"):
            await rig.stream(spec(), seconds=0.2)
        async with asyncio.timeout(5):
            await simulator.left.wait()
        simulator.left.clear()
        task = asyncio.create_task(rig.stream(spec()))
        while len(simulator.seen) < 4:  # noqa: ASYNC110 - the simulator counts, it does not signal
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await simulator.left.wait()
        requests, tokens = await rig.used()
    assert requests == 4
    assert tokens < 4 * 20  # not 4 * 1024, what was reserved


async def test_a_wait_that_fits_is_waited_out(valkey: str) -> None:
    limits = {"requests_per_minute": 1}
    async with running(OpenAISimulator(), valkey, limit_window_s=2.0, limits=limits, max_wait_s=5) as rig:
        assert await ask(rig) is None
        assert await ask(rig) is None
        with pytest.raises(ProviderRateLimited):
            await rig.stream(spec(), seconds=1.0)


async def test_a_wait_that_the_router_would_take_for_silence_is_refused_at_once(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, limits={"requests_per_minute": 1}, max_wait_s=100) as rig:
        assert await ask(rig) is None
        stub = inference_pb2_grpc.InferenceServiceStub(rig.remote.channel)
        request = v1.GenerateRequest(spec=spec(), stamp=STAMP)
        with pytest.raises(ProviderRateLimited):
            await rig.remote.unary(stub.Generate, request, call(200.0).heard_within(20.0), span_name="test")


async def test_the_script_decides_as_the_arithmetic_does(valkey: str) -> None:
    """Within one window, where no time passes for either: decisions and totals are the same, call by call."""
    rng = random.Random(7)
    scopes = (
        Scope("", Limits(requests=25, tokens=700, concurrency=12)),
        Scope("model:m", Limits(output_tokens=300)),
        Scope("tenant:a", Limits(input_tokens=400, nano_usd=900)),
    )
    windows = {scope.name: Window() for scope in scopes}
    async with limiting(valkey) as limiter:
        held: dict[str, Reservation] = {}
        for at in range(400):
            if held and rng.random() < 0.45:
                id, final = rng.choice(list(held)), rng.random() < 0.7
                changed = Amounts(rng.randint(0, 1), rng.randint(0, 30), rng.randint(0, 30), rng.randint(0, 50))
                for window in windows.values():
                    window.change(id, changed, 0, day=0, final=final)
                if final:
                    await limiter.settle(held.pop(id), changed)
                else:
                    limiter.grow(held[id], changed)
            else:
                id, amounts = str(at), Amounts(1, rng.randint(0, 30) if at % 17 else 500, rng.randint(0, 30), 40)
                expected = decide(windows, scopes, id, amounts, 0, wall_s=0)
                decision, reservation = await limiter.reserve(id, "openai", scopes, amounts)
                assert decision.allowed == expected.allowed
                assert (decision.wait_s is None) == (expected.wait_s is None)
                if reservation is not None:
                    held[id] = reservation
            await limiter.settled()
            found = await limiter.look("openai", scopes)
            for scope in scopes:
                assert list(found[scope.name].counted or ()) == windows[scope.name].totals
            assert found[""].running == windows[""].running
            assert found["tenant:a"].nano_usd == windows["tenant:a"].nano_usd


@pytest.mark.parametrize(
    ("limits", "amounts", "name"),
    [
        (Limits(requests=1), (1,), REQUESTS),
        (Limits(tokens=9), (1, 3, 2), TOKENS),
        (Limits(input_tokens=5), (1, 3, 0), INPUT_TOKENS),
        (Limits(output_tokens=5), (1, 0, 3), OUTPUT_TOKENS),
        (Limits(concurrency=1), (1,), CONCURRENCY),
        (Limits(nano_usd=5), (1, 0, 0, 3), NANO_USD),
    ],
)
@pytest.mark.parametrize("at", ["", "model:m", "tenant:a b/{c}"])
async def test_every_limit_holds_in_every_scope_and_is_named(
    valkey: str, limits: Limits, amounts: tuple[int, ...], name: str, at: str
) -> None:
    scopes = tuple(Scope(each, limits if each == at else Limits()) for each in ("", "model:m", "tenant:a b/{c}"))
    async with limiting(valkey) as limiter:
        first = await take(limiter, "a", scopes, *amounts)
        refused = await refusal(limiter, scopes, *amounts)
        assert (refused.limit, refused.scope) == (name, at)
        assert refused.wait_s is not None
        assert refused.wait_s > 0
        await limiter.settle(first, NOTHING)
        await take(limiter, "b", scopes, *amounts)


async def test_the_script_forgets_what_has_left_the_window(valkey: str) -> None:
    async with limiting(valkey, window_s=0.2) as limiter:
        limits = Limits(requests=2, tokens=10)
        for id in "ab":
            await take(limiter, id, limits, 1, 5)
        decision = await refusal(limiter, limits, 1, 1)
        assert decision.wait_s is not None
        assert 0 < decision.wait_s <= 0.21
        await asyncio.sleep(decision.wait_s + 0.005)
        assert await counted(limiter) in ((0, 0, 0), (1, 5, 0))
        await take(limiter, "c", limits, 1, 1)


async def test_a_call_that_came_late_counts_from_when_it_came(valkey: str) -> None:
    """Beyond the margin, which is 0.4 s here."""
    limits, client = Limits(requests=3), Redis.from_url(valkey)
    async with limiting(valkey, window_s=24) as limiter:
        on_time, late = await take(limiter, "on time", limits, 1, 30), await take(limiter, "late", limits, 1, 30)
        await asyncio.sleep(0.25)
        await limiter.settle(on_time, Amounts(1, 10), late_s=0.3)
        await limiter.settle(late, Amounts(1, 20), late_s=0.6)
        assert await counted(limiter) == (2, 30, 0)
    fields = await client.hgetall("spillway:limits:{openai}::counts")
    await client.aclose()
    counts = {name: value for name, value in fields.items() if isinstance(value, bytes) and name.isdigit()}
    slices = {int(name): struct.unpack("<3d", value) for name, value in counts.items()}
    first, *_, last = sorted(slices)
    assert (slices[first], slices[last]) == ((1, 10, 0), (1, 20, 0))


async def test_a_call_that_came_late_and_outlasts_the_window_counts_for_nothing_after_it(valkey: str) -> None:
    async with limiting(valkey, window_s=0.6) as limiter:
        reservation = await take(limiter, "a", Limits(requests=3), 1, 30)
        for _ in range(13):
            await asyncio.sleep(0.05)
            limiter.grow(reservation, Amounts(1, 30))  # else the store forgets that it runs
        await limiter.settle(reservation, Amounts(1, 30), late_s=0.02)
        assert await counted(limiter) == (0, 0, 0)


async def test_reserving_and_settling_twice_is_the_same_as_once(valkey: str) -> None:
    async with limiting(valkey) as limiter:
        limits = Limits(requests=5, tokens=100)
        for _ in range(3):
            reservation = await take(limiter, "a", limits, 1, 80)
        assert await counted(limiter) == (1, 80, 0)
        for used in (30, 30, 70):
            await limiter.settle(reservation, Amounts(1, used))
        assert await counted(limiter) == (1, 30, 0)


async def test_a_running_answer_counts_for_what_it_has_said_and_nothing_refuses_it(valkey: str) -> None:
    async with limiting(valkey) as limiter:
        limits = Limits(output_tokens=100)
        reservation = await take(limiter, "a", limits, 1, 0, 80)
        limiter.grow(reservation, Amounts(1, 0, 300))
        assert await counted(limiter) == (1, 0, 300)
        assert (await refusal(limiter, limits, 1, 0, 1)).limit == OUTPUT_TOKENS
        await limiter.settle(reservation, Amounts(1, 0, 60))
        assert await counted(limiter) == (1, 0, 60)


async def test_what_a_long_answer_used_beyond_its_reservation_is_charged_when_it_settles(valkey: str) -> None:
    """The store has forgotten both: their proxy was silent for longer than a lease lasts."""
    async with limiting(valkey, window_s=0.1) as limiter:
        short = await take(limiter, "short", Limits(), 1, 80)
        long = await take(limiter, "long", Limits(), 1, 80)
        await asyncio.sleep(0.3)
    async with limiting(valkey) as limiter:
        await limiter.settle(short, Amounts(1, 30))
        for _ in range(2):
            await limiter.settle(long, Amounts(1, 200))
        found = await counted(limiter)
    assert found is not None
    assert found[1] == 120


async def test_the_place_of_a_killed_proxys_call_comes_back_and_that_of_a_running_one_stays(valkey: str) -> None:
    limits = Limits(concurrency=2)
    async with limiting(valkey, window_s=0.6) as limiter, limiting(valkey, window_s=0.6) as killed:
        keeping = asyncio.create_task(limiter.keep({}))
        await take(limiter, "runs", limits, 1)
        await take(killed, "lost", limits, 1)
        assert (await refusal(limiter, limits, 1)).limit == CONCURRENCY
        await asyncio.sleep(0.5)
        await take(limiter, "next", limits, 1)
        assert (await refusal(limiter, limits, 1)).limit == CONCURRENCY
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await limiter.settled()


async def test_all_keys_of_a_decision_are_in_one_hash_slot_and_nothing_stays_for_ever(valkey: str) -> None:
    scopes = (Scope("", Limits(1, 1, concurrency=5), True), Scope("tenant:a}b", Limits(nano_usd=9)))
    async with limiting(valkey) as limiter:
        reservation = await take(limiter, "a", scopes, 1, 1)
        limiter.grow(reservation, Amounts(1, 1, 1), [Allowance(REQUESTS, 5, 10, 30.0)])
        await limiter.close("openai", scopes[0], 5, "PROVIDER_RATE_LIMITED")
        await limiter.settled()
        await limiter.look("openai", scopes)
    client = Redis.from_url(valkey, decode_responses=True)
    keys = await client.keys("*")
    slots = {key_slot(str(key).encode()) for key in keys}
    lives = [await client.pttl(key) for key in keys]
    await client.aclose()
    assert len(keys) == 5
    assert len(slots) == 1
    assert all(0 < life <= 86_400_000 for life in lives)


async def test_a_call_takes_the_same_of_the_store_however_many_are_in_the_window(valkey: str) -> None:
    """One slice holds many calls: what is kept grows with time, not with calls."""
    limits = Limits(requests=10**6, tokens=10**9)
    client = Redis.from_url(valkey)
    async with limiting(valkey) as limiter:
        for at in range(300):
            await take(limiter, str(at), limits, 1, 100)
        slices = await client.hlen("spillway:limits:{openai}::counts")
    await client.aclose()
    assert slices < 60


async def test_a_limit_that_the_provider_tells_is_held_by_all_proxies(valkey: str) -> None:
    async with limiting(valkey) as limiter, limiting(valkey) as other:
        first = await take(limiter, "a", Limits(), 1)
        await limiter.settle(first, Amounts(1), [Allowance(REQUESTS, 2, 3, 60.0), Allowance(TOKENS, 50, None, 60.0)])
        told = {each.name: each for each in await left(other, Scope("", learns=True))}
        assert (told[REQUESTS].limit, told[REQUESTS].remaining, told[REQUESTS].learned) == (3, 2, True)
        for id in "bc":
            await take(other, id, Limits(), 1, 25)
        refused = await refusal(limiter, Limits(), 1, 0)
        assert refused.limit == REQUESTS
        assert other.share("openai", Scope("")) == Limits(requests=3)


async def test_a_configured_limit_is_tightened_by_what_others_use_and_never_loosened(valkey: str) -> None:
    limits = Limits(requests=10)
    async with limiting(valkey) as limiter:
        first = await take(limiter, "a", limits, 1)
        second = await take(limiter, "b", limits, 1)
        await limiter.settle(second, Amounts(1), [Allowance(REQUESTS, 1, 100, 60.0)])  # others of this account
        await limiter.settle(first, Amounts(1), [Allowance(REQUESTS, 99, 100, 60.0)])  # an older answer, heard later
        await take(limiter, "c", limits, 1)
        assert (await refusal(limiter, limits, 1)).limit == REQUESTS
        (told,) = await left(limiter, Scope("", limits, True))
        assert (told.limit, told.remaining, told.learned) == (10, 0, False)


async def test_what_the_provider_says_is_left_counts_no_call_twice(valkey: str) -> None:
    """What was let through before the call whose answer tells it is in what it tells; what came after is not."""
    async with limiting(valkey) as limiter:
        before = await take(limiter, "before", Limits(), 1)
        tells = await take(limiter, "tells", Limits(), 1)
        await take(limiter, "after", Limits(), 1)
        await limiter.settle(tells, Amounts(1), [Allowance(REQUESTS, 3, None, 60.0)])
        await limiter.settle(before, Amounts(1))
        for id in "xy":
            await take(limiter, id, Limits(), 1)
        assert (await refusal(limiter, Limits(), 1)).limit == REQUESTS


async def test_what_the_provider_says_is_left_is_forgotten_at_its_reset(valkey: str) -> None:
    async with limiting(valkey) as limiter:
        first = await take(limiter, "a", Limits(), 1)
        await limiter.settle(first, Amounts(1), [Allowance(REQUESTS, 0, 1000, 0.05)])
        refused = await refusal(limiter, Limits(), 1)
        assert refused.wait_s is not None
        assert 0 < refused.wait_s <= 0.05
        await asyncio.sleep(refused.wait_s + 0.005)
        await take(limiter, "b", Limits(), 1)


async def test_the_headers_of_an_answer_teach_the_proxy(valkey: str) -> None:
    limits = openai_limits.Limits(requests=openai_limits.Bucket(3))
    async with running(OpenAISimulator(limits=limits), valkey, max_wait_s=0) as rig:
        for _ in range(3):
            assert await ask(rig) is None
        await rig.app.proxy.rationing.limiter.settled()
        told = next(one for one in (await rig.providers()).providers[0].limits if one.name == REQUESTS)
    assert (told.limit, told.remaining, told.learned) == (3, 0, True)


async def test_a_provider_whose_limits_are_per_model_is_closed_for_one_model_alone(valkey: str) -> None:
    models = [{"name": "gpt-4o-mini"}, {"name": "gpt-4o"}]
    simulator = OpenAISimulator(faults=Faults(rate_limited(30)))
    async with running(simulator, valkey, models=models, limits_are_per="model") as rig:
        assert await ask(rig) is not None
        refused = await ask(rig)
        assert refused is not None
        assert (refused.metadata["limit"], refused.metadata["scope"]) == (CLOSED, "model:gpt-4o-mini")
        assert await ask(rig, model="openai/gpt-4o") is None


async def test_a_tenants_own_limit_is_a_limit_of_the_provider_so_another_may_serve(valkey: str) -> None:
    tenants = {"default": {"requests_per_minute": 1}, "tenants": {"large": {"requests_per_minute": 2}}}
    async with running(OpenAISimulator(), valkey, tenant_limits=tenants) as rig:
        for tenant, most in (("small", 1), ("other", 1), ("large", 2)):
            stamp = v1.PolicyStamp()
            stamp.CopyFrom(STAMP)
            stamp.tenant = tenant
            for _ in range(most):
                await rig.generate(spec(), stamp=stamp)
            with pytest.raises(ProviderRateLimited) as caught:
                await rig.generate(spec(), stamp=stamp)
            assert caught.value.metadata["scope"] == f"tenant:{tenant}"
            assert caught.value.elsewhere
            assert 0 < (caught.value.retry_after_s or 0) <= 62


async def test_money_is_held_before_a_call_and_what_it_cost_is_counted_after_it(valkey: str) -> None:
    limits = {"usd_per_day": 0.001}
    async with running(OpenAISimulator(), valkey, limits=limits) as rig:
        assert await ask(rig, sampling=v1.Sampling(max_tokens=100)) is None
        told = (await rig.providers()).providers[0].limits[-1]
        alone = await ask(rig, sampling=v1.Sampling(max_tokens=2000))
    assert (told.name, told.limit) == (NANO_USD, 1_000_000)
    assert 1_000_000 - told.remaining < 10_000  # micro-dollars: what few words cost, not what was held
    assert alone is not None
    assert alone.metadata["limit"] == NANO_USD
    assert alone.retry_after_s is None


async def test_an_unknown_price_is_refused_where_money_is_limited_unless_the_settings_allow_it(valkey: str) -> None:
    told: dict[str, Any] = {"models": [{"name": "mystery"}], "limits": {"usd_per_day": 1.0}}
    async with running(OpenAISimulator(), valkey, **told) as rig:
        with pytest.raises(CostCap, match="usd_per_day"):
            await rig.generate(spec(model="openai/mystery"))
    async with running(OpenAISimulator(), valkey, **told, unknown_price="allow") as rig:
        await rig.generate(spec(model="openai/mystery"))


async def test_those_who_wait_are_served_in_turn_and_woken_when_a_place_is_free(valkey: str) -> None:
    """One tenant asks for much and first; the other's calls do not wait for all of them."""
    simulator = OpenAISimulator(first_s=0.05)
    async with running(simulator, valkey, limits={"concurrency": 1}, max_wait_s=30) as rig:
        waiting = rig.app.proxy.rationing.waiting

        async def one(tenant: str) -> None:
            stamp = v1.PolicyStamp()
            stamp.CopyFrom(STAMP)
            stamp.tenant = tenant
            await rig.generate(spec(tenant), stamp=stamp, seconds=60)

        loud = [asyncio.create_task(one("loud")) for _ in range(20)]
        await eventually(lambda: waiting.total() + len(simulator.seen) >= 20)
        before = len(simulator.seen)
        await asyncio.gather(*loud, *(one("quiet") for _ in range(3)))
    order = [seen.body["messages"][-1]["content"] for seen in simulator.seen]
    assert max(at for at, tenant in enumerate(order) if tenant == "quiet") < before + 12
    assert max(seen.running for seen in simulator.seen) == 1


async def test_who_gives_up_in_line_leaves_nothing_behind(valkey: str) -> None:
    simulator = OpenAISimulator(first_s=0.05)
    async with running(simulator, valkey, limits={"concurrency": 1}, max_wait_s=30) as rig:
        tasks = [asyncio.create_task(rig.generate(spec())) for _ in range(8)]
        async with asyncio.timeout(5):
            await simulator.asked.wait()
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await ask(rig) is None
        assert rig.app.proxy.rationing.waiting.total() == rig.app.proxy.rationing.running.total() == 0


async def test_without_the_store_each_proxy_lets_its_share_through() -> None:
    limits = {"requests_per_minute": 10}
    async with running(OpenAISimulator(), NOWHERE, limits=limits, replicas=2) as rig:
        refusals = await asyncio.gather(*(ask(rig) for _ in range(20)))
        listed = (await rig.providers()).providers[0].limits[0]
    assert refusals.count(None) == 5
    assert {refused.metadata["limit"] for refused in refusals if refused is not None} == {REQUESTS}
    assert not listed.HasField("remaining")


async def test_the_share_is_of_the_proxies_last_seen_and_counts_what_passed_before(valkey: str) -> None:
    clock, scope = HandClock(), Scope("", Limits(requests=10), True)
    async with limiting(valkey, clock=clock) as limiter:
        for name in ("two", "three", "four", "five"):
            other = Limiter(limiter._store, name=name, replicas=1, clock=clock)
            await other.look("openai", [scope])
        await limiter.look("openai", [scope])
        await take(limiter, "a", (scope,), 1, 0)
        limiter._away_until = clock() + 1
        assert limiter.share("openai", scope) == Limits(requests=2)
        alone = await take(limiter, "b", (scope,), 1, 0)
        assert (await refusal(limiter, (scope,), 1, 0)).limit == REQUESTS
        assert repr(alone).endswith("alone>")
        clock.advance(2)
        await limiter.settle(alone, Amounts(1, 7))
        assert await counted(limiter) == (2, 7, 0)
        assert repr(limiter) == "<Limiter one together>"


async def test_what_ended_while_the_store_was_away_is_charged_once_it_is_back(valkey: str) -> None:
    clock, limits = HandClock(), Limits(requests=10, nano_usd=1000)
    async with limiting(valkey, clock=clock) as limiter:
        together = await take(limiter, "together", limits, 1, 5, 0, 100)
        limiter._away_until = clock() + 1
        alone = await take(limiter, "alone", limits, 1, 5, 0, 100)
        await limiter.settle(alone, Amounts(1, 6, 0, 80))
        await limiter.settle(together, Amounts(1, 7, 0, 300))
        clock.advance(2)
        for _ in range(2):
            await limiter.look("openai", at_provider(limits))
            await limiter.settled()
        [standing] = (await limiter.look("openai", at_provider(limits))).values()
    assert (standing.counted, standing.nano_usd) == ((2, 13, 0), 380)


async def test_of_what_ended_a_window_ago_the_money_alone_is_charged(valkey: str) -> None:
    clock, limits = HandClock(), Limits(requests=10, nano_usd=1000)
    async with limiting(valkey, clock=clock) as limiter:
        for id in "ab":
            limiter._away_until = clock() + 1
            await limiter.settle(await take(limiter, id, limits, 1, 5, 0, 100), Amounts(1, 6, 0, 80))
            clock.advance(100)
        await limiter.look("openai", at_provider(limits))
        await limiter.settled()
        [standing] = (await limiter.look("openai", at_provider(limits))).values()
    assert (standing.counted, standing.nano_usd) == ((0, 0, 0), 160)


async def test_no_more_than_so_many_calls_are_remembered_while_the_store_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiter_module, "MOST_OWED", 3)
    async with limiting(NOWHERE) as limiter:
        for at in range(5):
            await limiter.settle(await take(limiter, str(at), Limits(requests=10), 1), Amounts(1, 6))
        assert list(limiter._owed) == ["2", "3", "4"]


async def test_a_store_that_failed_is_left_alone_for_a_while() -> None:
    class Away(Store):
        asked = 0

        async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
            self.asked += 1
            raise StoreUnavailable("away")

    clock, store, scopes = HandClock(), Away(StoreSettings(url=NOWHERE)), at_provider(Limits(requests=5))
    limiter = Limiter(store, name="one", replicas=1, clock=clock)
    for at in range(5):
        decision, _ = await limiter.reserve(str(at), "openai", scopes, Amounts(1, 1))
        assert decision == ALLOWED
    assert store.asked == 1
    assert repr(limiter) == "<Limiter one alone>"
    clock.advance(limiter_module.AWAY_S)
    decision, _ = await limiter.reserve("more", "openai", scopes, Amounts(1, 1))
    assert (decision.limit, store.asked) == (REQUESTS, 2)
    await store.close()


async def test_one_call_at_a_time_asks_whether_a_store_that_failed_is_back() -> None:
    class Slow(Store):
        asked = 0

        async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
            self.asked += 1
            await asyncio.sleep(0)
            raise StoreUnavailable("too slow")

    clock, store, scopes = HandClock(), Slow(StoreSettings(url=NOWHERE)), at_provider(Limits())
    limiter = Limiter(store, name="one", replicas=1, clock=clock)
    await limiter.reserve("first", "openai", scopes, Amounts(1))
    clock.advance(limiter_module.AWAY_S)
    await asyncio.gather(*(limiter.reserve(str(at), "openai", scopes, Amounts(1)) for at in range(10)))
    assert store.asked == 2
    await store.close()


async def test_a_call_given_up_while_it_reserves_holds_nothing(valkey: str) -> None:
    async with limiting(valkey) as limiter:
        task = asyncio.create_task(limiter.reserve("a", "openai", at_provider(Limits()), Amounts(1, 50)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await counted(limiter) == (0, 0, 0)
