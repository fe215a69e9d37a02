"""Limits that proxies keep together: on a real store, by the real script, and alone while the store is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.cloud_proxy import limit_scripts
from services.cloud_proxy import limiter as limiter_module
from services.cloud_proxy.limiter import Limiter, Reservation
from services.cloud_proxy.limits import ALLOWED, REQUESTS, TOKENS, Amounts, Limits, Window
from spillway import v1
from spillway.errors import ProviderRateLimited
from spillway.rpc.remote import Remote
from spillway.settings import StoreSettings
from spillway.store.redis import Script, Store, StoreUnavailable
from spillway.telemetry.tracing import Tracing
from spillway.testing.clock import HandClock
from spillway.testing.openai_faults import Cut, Faults, Reset, Stall
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.v1 import inference_pb2_grpc
from tests.integration.cloud_proxy.rig import NOWHERE, STAMP, Caller, call, declared, running, spec
from tests.integration.processes import started


@asynccontextmanager
async def limiting(url: str, *, replicas: int = 1, clock: Any = None) -> AsyncIterator[Limiter]:
    store = Store(StoreSettings(url=url, timeout_s=5.0))
    try:
        yield Limiter(store, name="one", replicas=replicas, clock=clock or asyncio.get_running_loop().time)
    finally:
        await store.close()


async def take(limiter: Limiter, id: str, limits: Limits, *amounts: int) -> Reservation:
    _, reservation = await limiter.reserve(id, "openai", limits, Amounts(*amounts))
    assert reservation is not None
    return reservation


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
            assert 0 < refused.retry_after_s <= 60


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


async def test_a_wait_that_fits_is_waited_out(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "WINDOW_US", 200_000)
    async with running(OpenAISimulator(), valkey, limits={"requests_per_minute": 1}, max_wait_s=5) as rig:
        assert await ask(rig) is None
        assert await ask(rig) is None
        with pytest.raises(ProviderRateLimited):
            await rig.stream(spec(), seconds=0.1)


async def test_a_wait_that_the_router_would_take_for_silence_is_refused_at_once(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, limits={"requests_per_minute": 1}, max_wait_s=100) as rig:
        assert await ask(rig) is None
        stub = inference_pb2_grpc.InferenceServiceStub(rig.remote.channel)
        request = v1.GenerateRequest(spec=spec(), stamp=STAMP)
        with pytest.raises(ProviderRateLimited):
            await rig.remote.unary(stub.Generate, request, call(200.0).heard_within(20.0), span_name="test")


async def test_the_script_decides_as_the_arithmetic_does(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one window, where no time passes for either: decisions and totals are the same, call by call."""
    rng = random.Random(7)
    limits, window = Limits(requests=15, tokens=400), Window()
    async with limiting(valkey) as limiter:
        held: dict[str, Amounts] = {}
        for at in range(200):
            if held and rng.random() < 0.4:
                id = rng.choice(list(held))
                used = Amounts(rng.randint(0, 1), rng.randint(0, 60))
                window.settle(id, used, 0)
                await limiter.settle(Reservation(id, "openai", held[id], True), used)
            else:
                id, amounts = str(at), Amounts(1, rng.randint(0, 60) if at % 17 else 500)
                expected = window.reserve(id, amounts, limits, 0)
                decision, reservation = await limiter.reserve(id, "openai", limits, amounts)
                assert (decision.allowed, decision.limit) == (expected.allowed, expected.limit)
                assert (decision.wait_s is None) == (expected.wait_s is None)
                if reservation is not None:
                    held[id] = amounts
            found = await limiter.look("openai")
            assert found is not None
            assert list(found) == window.totals


async def test_the_script_forgets_what_has_left_the_window(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "WINDOW_US", 100_000)
    async with limiting(valkey) as limiter:
        limits = Limits(requests=2, tokens=10)
        for id in "ab":
            await take(limiter, id, limits, 1, 5)
        decision, _ = await limiter.reserve("c", "openai", limits, Amounts(1, 1))
        assert not decision.allowed
        assert decision.wait_s is not None
        assert 0 < decision.wait_s <= 0.1
        await asyncio.sleep(decision.wait_s + 0.002)
        assert await limiter.look("openai") in ((0, 0), (1, 5))
        await take(limiter, "c", limits, 1, 1)


async def test_reserving_and_settling_twice_is_the_same_as_once(valkey: str) -> None:
    async with limiting(valkey) as limiter:
        limits = Limits(requests=5, tokens=100)
        for _ in range(3):
            reservation = await take(limiter, "a", limits, 1, 80)
        assert await limiter.look("openai") == (1, 80)
        for _ in range(3):
            await limiter.settle(reservation, Amounts(1, 30))
        assert await limiter.look("openai") == (1, 30)


async def test_what_a_long_answer_used_beyond_its_reservation_is_charged_when_it_settles(
    valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter_module, "WINDOW_US", 50_000)
    async with limiting(valkey) as limiter:
        short = await take(limiter, "short", Limits(), 1, 80)
        long = await take(limiter, "long", Limits(), 1, 80)
        await asyncio.sleep(0.06)
        monkeypatch.setattr(limiter_module, "WINDOW_US", 60_000_000)
        await limiter.look("openai")
        monkeypatch.setattr(limiter_module, "WINDOW_US", 50_000)
        await limiter.look("openai")
        monkeypatch.setattr(limiter_module, "WINDOW_US", 60_000_000)
        for _ in range(2):
            await limiter.settle(short, Amounts(1, 30))
            await limiter.settle(long, Amounts(1, 200))
        assert await limiter.look("openai") == (0, 120)


async def test_all_keys_of_a_decision_are_in_one_hash_slot(valkey: str) -> None:
    async with limiting(valkey) as limiter:
        await take(limiter, "a", Limits(1, 1), 1, 1)
        await limiter.close_provider("openai", 5)
        await limiter.look("openai")
    client = Redis.from_url(valkey, decode_responses=True)
    keys = await client.keys("*")
    lives = [await client.pttl(key) for key in keys]
    await client.aclose()
    assert sorted(keys) == sorted(limit_scripts.keys("openai"))
    assert all("{openai}" in key for key in keys)
    assert all(0 < life <= 61_000 for life in lives)  # nothing stays for ever


async def test_without_the_store_each_proxy_lets_its_share_through() -> None:
    limits = {"requests_per_minute": 10}
    async with running(OpenAISimulator(), NOWHERE, limits=limits, replicas=2) as rig:
        refusals = await asyncio.gather(*(ask(rig) for _ in range(20)))
        listed = (await rig.providers()).providers[0].limits[0]
    assert refusals.count(None) == 5
    assert {refused.metadata["limit"] for refused in refusals if refused is not None} == {REQUESTS}
    assert not listed.HasField("remaining")


async def test_the_share_is_of_the_proxies_last_seen_and_counts_what_passed_before(valkey: str) -> None:
    clock = HandClock()
    limits = Limits(requests=10)
    async with limiting(valkey, clock=clock) as limiter:
        for name in ("two", "three", "four", "five"):
            other = Limiter(limiter._store, name=name, replicas=1, clock=clock)
            await other.look("openai")
        await limiter.look("openai")
        await take(limiter, "a", limits, 1, 0)
        limiter._away_until = clock() + 1
        assert limiter.share("openai", limits) == Limits(requests=2)
        alone = await take(limiter, "b", limits, 1, 0)
        decision, _ = await limiter.reserve("c", "openai", limits, Amounts(1, 0))
        assert not decision.allowed
        assert not alone.by_store
        clock.advance(2)
        await limiter.settle(alone, Amounts(1, 7))
        assert await limiter.look("openai") == (2, 7)
        assert repr(limiter) == "<Limiter one together>"


async def test_a_store_that_failed_is_left_alone_for_a_while() -> None:
    class Away(Store):
        asked = 0

        async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
            self.asked += 1
            raise StoreUnavailable("away")

    clock, store = HandClock(), Away(StoreSettings(url=NOWHERE))
    limiter = Limiter(store, name="one", replicas=1, clock=clock)
    for at in range(5):
        decision, _ = await limiter.reserve(str(at), "openai", Limits(requests=5), Amounts(1, 1))
        assert decision == ALLOWED
    assert store.asked == 1
    assert repr(limiter) == "<Limiter one alone>"
    clock.advance(limiter_module.AWAY_S)
    decision, _ = await limiter.reserve("more", "openai", Limits(requests=5), Amounts(1, 1))
    assert (decision.limit, store.asked) == (REQUESTS, 2)
    await store.close()


async def test_a_call_given_up_while_it_reserves_holds_nothing(valkey: str) -> None:
    async with limiting(valkey) as limiter:
        task = asyncio.create_task(limiter.reserve("a", "openai", Limits(), Amounts(1, 50)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await limiter.settled()
        assert await limiter.look("openai") == (0, 0)
