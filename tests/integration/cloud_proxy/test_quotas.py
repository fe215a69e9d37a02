"""What is left of limits, as those who watch it are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.cloud_proxy.limiter import Limiter
from services.cloud_proxy.limits import REQUESTS, Scope
from services.cloud_proxy.quotas import HEARTBEAT_S, Quotas
from services.cloud_proxy.rationing import Rationing
from services.cloud_proxy.standing import Standing
from spillway import v1
from spillway.errors import ProviderAuthFailed
from spillway.settings import StoreSettings
from spillway.store.redis import Store
from spillway.testing.clock import HandClock
from spillway.testing.openai_faults import Faults, rate_limited
from spillway.testing.openai_simulator import OpenAISimulator
from spillway.v1 import cloud_pb2_grpc
from tests.integration.cloud_proxy.rig import MODEL, NOWHERE, Rig, call, running, spec
from tests.integration.cloud_proxy.test_limits import ask, limiting

OTHER = "openai/other"
SETTINGS: dict[str, Any] = {
    "models": [{"name": "gpt-4o-mini", "limits": {"tokens_per_minute": 1000}}, {"name": "other"}],
    "limits": {"requests_per_minute": 5, "concurrency": 3},
}


@asynccontextmanager
async def watching(rig: Rig, interval_ms: int = 100) -> AsyncIterator[AsyncIterator[v1.WatchQuotasResponse]]:
    stub = cloud_pb2_grpc.CloudProxyServiceStub(rig.remote.channel)
    request = v1.WatchQuotasRequest(interval_ms=interval_ms)
    async with rig.remote.stream(stub.WatchQuotas, request, call(60), span_name="test") as answers:
        yield aiter(answers)


def by_scope(quota: v1.Quota) -> dict[tuple[str, str], v1.RateLimit]:
    return {(limit.scope, limit.name): limit for limit in quota.limits}


async def test_a_watcher_is_told_of_every_target_first_and_then_of_what_changed(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, **SETTINGS) as rig, watching(rig) as told:
        first = await anext(told)
        assert first.sequence == 0
        assert [quota.target for quota in first.quotas] == [MODEL, OTHER]
        limits = by_scope(first.quotas[0])
        assert {key: (limit.limit, limit.remaining) for key, limit in limits.items()} == {
            ("", REQUESTS): (5, 5),
            ("", "concurrency"): (3, 3),
            ("model:gpt-4o-mini", "tokens_per_minute"): (1000, 1000),
        }
        await rig.stream(spec())
        second = await anext(told)
        while by_scope(second.quotas[0])["model:gpt-4o-mini", "tokens_per_minute"].remaining in (0, 1000):
            second = await anext(told)
        assert by_scope(second.quotas[0])["", REQUESTS].remaining == 4


async def test_a_watcher_sees_that_a_provider_is_closed_why_and_that_others_wait(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(rate_limited(0.8)))
    async with running(simulator, valkey, max_wait_s=5, **SETTINGS) as rig, watching(rig) as told:
        assert await ask(rig) is not None
        waiting = asyncio.create_task(ask(rig))
        async for message in told:
            quota = message.quotas[0]
            if quota.HasField("closed_ms") and quota.waiting:
                assert 0 < quota.closed_ms <= 800
                assert quota.closed_why == "PROVIDER_RATE_LIMITED"
                break
        async for message in told:
            if any(quota.target == MODEL and not quota.HasField("closed_ms") for quota in message.quotas):
                break
        assert await waiting is None


async def test_without_the_store_limits_are_told_and_what_remains_is_not() -> None:
    async with running(OpenAISimulator(), NOWHERE, **SETTINGS) as rig, watching(rig) as told:
        limit = by_scope((await anext(told)).quotas[0])["", REQUESTS]
    assert limit.limit == 5
    assert not limit.HasField("remaining")


class Counting(Limiter):
    """Counts how often it looks."""

    looks = 0

    async def look(self, provider: str, scopes: Sequence[Scope]) -> dict[str, Standing]:
        self.looks += 1
        return await super().look(provider, scopes)


async def test_many_watchers_cost_one_look(valkey: str) -> None:
    clock, store = HandClock(), Store(StoreSettings(url=valkey, timeout_s=5.0))
    limiter = Counting(store, name="counting", replicas=1, clock=clock)
    async with running(OpenAISimulator(), valkey, **SETTINGS) as rig:
        quotas = Quotas(rig.app.proxy.routes, Rationing({}, limiter, clock=clock), rig.app.keyrings, clock=clock)
        watchers = [quotas.watch(v1.WatchQuotasRequest()) for _ in range(50)]
        found = await asyncio.gather(*(anext(watcher) for watcher in watchers))
        await asyncio.gather(*(watcher.aclose() for watcher in watchers))
    await store.close()
    assert all(len(one.quotas) == 2 for one in found)
    assert limiter.looks == 1


async def test_a_watch_ends_with_its_proxy(valkey: str) -> None:
    clock = HandClock()
    async with running(OpenAISimulator(), valkey, **SETTINGS) as rig, limiting(valkey, clock=clock) as limiter:
        quotas = Quotas(rig.app.proxy.routes, Rationing({}, limiter, clock=clock), rig.app.keyrings, clock=clock)
        watcher = quotas.watch(v1.WatchQuotasRequest())
        await anext(watcher)
        await quotas.close()
        assert [message async for message in watcher] == []


async def test_a_provider_without_a_usable_key_is_closed_and_says_why(valkey: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-wrong")
    async with running(OpenAISimulator(key="sk-right"), valkey, key_file=key) as rig:
        async with watching(rig) as told:
            before = await anext(told)
            assert not before.quotas[0].HasField("closed_ms")
            with pytest.raises(ProviderAuthFailed):
                await rig.generate(spec())
            after = before
            while not (after.quotas and after.quotas[0].HasField("closed_ms")):
                after = await anext(told)
        assert after.quotas[0].closed_ms > 0
        assert after.quotas[0].closed_why == "PROVIDER_AUTH_FAILED"


async def test_a_watch_with_nothing_to_tell_says_that_it_is_still_there(valkey: str) -> None:
    clock = HandClock()
    async with running(OpenAISimulator(), valkey, **SETTINGS) as rig, limiting(valkey, clock=clock) as limiter:
        quotas = Quotas(rig.app.proxy.routes, Rationing({}, limiter, clock=clock), rig.app.keyrings, clock=clock)
        async with aclosing(quotas.watch(v1.WatchQuotasRequest(interval_ms=100))) as watcher:
            assert (await anext(watcher)).quotas
            clock.advance(HEARTBEAT_S)
            beat = await anext(watcher)
            assert (beat.sequence, len(beat.quotas)) == (1, 0)
        await quotas.close()
