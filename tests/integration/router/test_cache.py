"""The answer cache over real sockets and a real Valkey: one upstream call for many, and never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis.asyncio import Redis

from services.router.cache import Cache
from services.router.cache_settings import CacheSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import ContentFiltered, DeadlineExceeded, TargetDown
from spillway.generation import fold
from spillway.rpc.call import Call, Caller
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing
from spillway.testing.clock import HandClock
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.faults import Refuse, Script, Silence
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import Mesh, json_spec, running_mesh

MANY = 1000
USE = v1.RoutingPolicy(cache=v1.CACHE_MODE_USE)
REFRESH = v1.RoutingPolicy(cache=v1.CACHE_MODE_REFRESH)
CLOUD = v1.RoutingPolicy(allowed_targets=["cloud"])
LOCAL_ONLY = v1.RoutingPolicy(cache=v1.CACHE_MODE_USE, data_policy=v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY))


@dataclass
class HeldEngine(FakeEngine):
    """An engine that goes no further than its first `free` events before `go` is set; with None it does not begin."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    free: int | None = 0

    async def generate(self, request: Any, call: Call) -> AsyncGenerator[v1.GenerationEvent, None]:
        if self.free is None:
            await self.go.wait()
        given = 0
        async with aclosing(super().generate(request, call)) as events:
            async for event in events:
                if given >= (self.free or 0):
                    await self.go.wait()
                yield event
                given += 1


@pytest.fixture
async def valkey() -> AsyncIterator[str]:
    async with embedded_valkey() as url:
        yield url


@asynccontextmanager
async def caching_mesh(url: str, **arranged: Any) -> AsyncIterator[Mesh]:
    """A mesh whose router caches in `url`; what is not about the mesh is about the cache."""
    others = {name: arranged.pop(name) for name in ("local", "wall", "tracing") if name in arranged}
    # The store's own default is for a machine that does nothing else.
    settings = CacheSettings(enabled=True, store=StoreSettings(url=url, timeout_s=5.0), **arranged)
    async with running_mesh(cache=settings, **others) as mesh:
        yield mesh


def cache_of(mesh: Mesh) -> Cache:
    assert mesh.cache is not None
    return mesh.cache


def greedy(prompt: str = "hello there") -> v1.GenerationSpec:
    """A spec that is cached by default."""
    return v1.GenerationSpec(text=v1.TextPrompt(text=prompt), sampling=v1.Sampling(temperature=0))


async def unary(
    mesh: Mesh, policy: v1.RoutingPolicy | None = None, *, tenant: str = "acme", deadline_s: float = 60.0
) -> v1.GenerateResponse:
    call = Call("test", Deadline.after(deadline_s), caller=Caller(tenant))
    request = v1.GenerateRequest(spec=greedy(), policy=policy)
    return await mesh.remote.unary(mesh.stub.Generate, request, call, span_name="test")


async def events(
    mesh: Mesh, policy: v1.RoutingPolicy | None = None, *, tenant: str = "acme", deadline_s: float = 60.0
) -> AsyncGenerator[v1.GenerationEvent]:
    call = Call("test", Deadline.after(deadline_s), caller=Caller(tenant))
    request = v1.StreamGenerateRequest(spec=greedy(), policy=policy)
    async with mesh.remote.stream(mesh.stub.StreamGenerate, request, call, span_name="test") as rpc:
        async for response in rpc:
            yield response.event


async def streamed(
    mesh: Mesh, policy: v1.RoutingPolicy | None = None, *, tenant: str = "acme", deadline_s: float = 60.0
) -> v1.GenerateResponse:
    return await fold(events(mesh, policy, tenant=tenant, deadline_s=deadline_s))


Ask = Callable[..., Awaitable[v1.GenerateResponse]]
both = pytest.mark.parametrize("ask", [unary, streamed])


def said(answer: v1.GenerateResponse) -> str:
    return answer.choices[0].content.text


@both
async def test_a_thousand_identical_misses_are_one_upstream_call(valkey: str, ask: Ask) -> None:
    engine = HeldEngine(model="small")
    async with caching_mesh(valkey, local=engine) as mesh:
        asking = [asyncio.ensure_future(ask(mesh)) for _ in range(MANY)]
        await eventually(lambda: cache_of(mesh).waiting == MANY, within_s=60)
        engine.go.set()
        answers = await asyncio.gather(*asking)
        assert {said(answer) for answer in answers} == {"one two three four five"}
        assert (len(engine.seen), engine.finished, mesh.outcomes()) == (1, 1, ["local:answered"])
        assert sum(answer.usage.HasField("cache") for answer in answers) == MANY - 1
        assert sum(len(answer.usage.attempts) for answer in answers) == 1
        tally = cache_of(mesh).tally
        assert (tally.misses, tally.shared, tally.hits) == (1, MANY - 1, 0)


@both
async def test_a_leader_that_leaves_does_not_take_the_others_along(valkey: str, ask: Ask) -> None:
    engine = HeldEngine(model="small", free=2)
    async with caching_mesh(valkey, local=engine) as mesh:
        leader = asyncio.ensure_future(ask(mesh))
        await eventually(lambda: engine.running == 1)
        asking = [asyncio.ensure_future(ask(mesh)) for _ in range(MANY - 1)]
        await eventually(lambda: cache_of(mesh).waiting == MANY, within_s=60)
        leader.cancel()
        await eventually(lambda: cache_of(mesh).waiting == MANY - 1)
        engine.go.set()
        answers = await asyncio.gather(*asking)
        assert {said(answer) for answer in answers} == {"one two three four five"}
        assert (len(engine.seen), engine.cancelled, mesh.outcomes()) == (1, 0, ["local:answered"])


async def test_a_miss_is_live_for_all_who_wait_and_for_who_comes_in_the_middle(valkey: str) -> None:
    engine = HeldEngine(model="small", free=3)
    async with caching_mesh(valkey, local=engine) as mesh:
        async with aclosing(events(mesh)) as leader, aclosing(events(mesh)) as follower:
            for stream in (leader, follower):
                assert (await anext(stream)).HasField("started")
                assert (await anext(stream)).delta.text == "one"
            await leader.aclose()
            engine.go.set()
            rest = [event async for event in follower]
        assert "".join(event.delta.text for event in rest) == " two three four five"
        assert [event.sequence for event in rest] == list(range(2, 2 + len(rest)))
        assert rest[-1].usage.cache.shared
        assert len(engine.seen) == 1


@both
async def test_when_the_last_one_leaves_the_upstream_call_ends(valkey: str, ask: Ask) -> None:
    engine = HeldEngine(model="small", free=2)
    async with caching_mesh(valkey, local=engine) as mesh:
        asking = [asyncio.ensure_future(ask(mesh)) for _ in range(3)]
        await eventually(lambda: engine.running == 1 and cache_of(mesh).waiting == 3)
        for one in asking:
            one.cancel()
        await eventually(lambda: engine.cancelled == 1)
        await eventually(lambda: mesh.outcomes() == ["local:cancelled"])
        engine.go.set()
        assert not (await ask(mesh)).usage.HasField("cache")


@both
async def test_a_failure_is_everybodys_and_is_not_kept(valkey: str, ask: Ask) -> None:
    engine = HeldEngine(model="small", free=None, faults=Script(Refuse(ContentFiltered("refused"))))
    async with caching_mesh(valkey, local=engine) as mesh:
        asking = [asyncio.ensure_future(ask(mesh)) for _ in range(20)]
        await eventually(lambda: cache_of(mesh).waiting == 20)
        engine.go.set()
        failures = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(failure) for failure in failures} == {ContentFiltered}
        assert {str(failure) for failure in failures} == {"refused"}
        assert await keys(valkey) == []


async def test_a_request_in_a_hurry_does_not_wait_behind_a_patient_one(valkey: str) -> None:
    engine = HeldEngine(model="small")
    async with caching_mesh(valkey, local=engine) as mesh:
        patient = asyncio.ensure_future(unary(mesh, deadline_s=60))
        await eventually(lambda: engine.running == 1)
        with pytest.raises(DeadlineExceeded):
            await unary(mesh, v1.RoutingPolicy(allowed_targets=["local"]), deadline_s=0.2)
        assert len(engine.seen) == 2
        engine.go.set()
        assert said(await patient) == "one two three four five"


async def test_who_outlives_the_leaders_deadline_is_answered_anew(valkey: str) -> None:
    engine = FakeEngine(model="small", faults=Script(Silence()))
    only = v1.RoutingPolicy(allowed_targets=["local"])
    async with caching_mesh(valkey, local=engine) as mesh:
        leader = asyncio.ensure_future(unary(mesh, only, deadline_s=2.0))
        await eventually(lambda: engine.running == 1)
        follower = asyncio.ensure_future(unary(mesh, only, deadline_s=2.9))
        await eventually(lambda: cache_of(mesh).waiting == 2)
        with pytest.raises(DeadlineExceeded):
            await leader
        assert said(await follower) == "one two three four five"
        assert len(engine.seen) == 2


@both
async def test_two_tenants_never_share_an_answer(valkey: str, ask: Ask) -> None:
    engine = HeldEngine(model="small")
    async with caching_mesh(valkey, local=engine) as mesh:
        asking = [asyncio.ensure_future(ask(mesh, tenant=tenant)) for tenant in ("acme", "emca") * 10]
        await eventually(lambda: cache_of(mesh).waiting == 20)
        engine.go.set()
        await asyncio.gather(*asking)
        assert sorted(seen.call.caller.tenant for seen in engine.seen) == ["acme", "emca"]
        assert (await ask(mesh, tenant="acme")).usage.HasField("cache")
        assert not (await ask(mesh, tenant="third")).usage.HasField("cache")
        assert len(engine.seen) == 3


@both
async def test_a_hit_says_what_it_saved_and_costs_nothing(valkey: str, ask: Ask) -> None:
    wall = HandClock()
    async with caching_mesh(valkey, wall=wall) as mesh:
        made = await unary(mesh, CLOUD)
        assert (made.usage.cost_nano_usd, made.usage.HasField("cache")) == (2 * 1000 + 3 * 2000, False)
        wall.advance(12.5)
        await eventually(lambda: cache_of(mesh).tally.kept == 1)
        hit = await ask(mesh, CLOUD)
        assert said(hit) == said(made) == "from the cloud"
        assert (hit.started.target, hit.started.model) == ("cloud", "openai/big")
        assert hit.started.route_reason.startswith("cached 12 s ago: ")
        assert (hit.usage.cost_nano_usd, hit.usage.completion_tokens, list(hit.usage.attempts)) == (0, 0, [])
        told = hit.usage.cache
        assert (told.age_ms, told.shared) == (12_500, False)
        assert (told.saved_prompt_tokens, told.saved_completion_tokens, told.saved_nano_usd) == (2, 3, 8000)
        tally = cache_of(mesh).tally
        assert (tally.hits, tally.misses, tally.saved_tokens, tally.saved_nano_usd) == (1, 1, 5, 8000)
        assert (len(mesh.cloud.seen), mesh.outcomes()) == (1, ["cloud:answered"])


async def test_a_hit_is_replayed_as_a_stream(valkey: str) -> None:
    async with caching_mesh(valkey) as mesh:
        await streamed(mesh)
        await eventually(lambda: cache_of(mesh).tally.kept == 1)
        found = [event async for event in events(mesh)]
        assert [event.WhichOneof("event") for event in found] == ["started", "delta", "finished", "usage"]
        assert [event.sequence for event in found] == [0, 1, 2, 3]
        assert found[0].started.request_id == "test"
        assert len(mesh.local.seen) == 1


async def test_an_answer_is_kept_for_the_next_router_too(valkey: str) -> None:
    async with caching_mesh(valkey) as mesh:
        await unary(mesh)
    async with caching_mesh(valkey) as mesh:
        assert (await unary(mesh)).usage.HasField("cache")
        assert mesh.local.seen == []


async def test_a_refresh_makes_a_new_answer_and_keeps_it(valkey: str) -> None:
    async with caching_mesh(valkey) as mesh:
        await unary(mesh)
        await eventually(lambda: cache_of(mesh).tally.kept == 1)
        mesh.local.answer = lambda spec: "something new"
        assert said(await unary(mesh)) == "one two three four five"
        refreshed = await unary(mesh, REFRESH)
        assert (said(refreshed), refreshed.usage.HasField("cache")) == ("something new", False)
        await eventually(lambda: cache_of(mesh).tally.kept == 2)
        assert said(await unary(mesh)) == "something new"
        assert len(mesh.local.seen) == 2


async def test_an_answer_expires(valkey: str) -> None:
    wall = HandClock()
    async with caching_mesh(valkey, wall=wall, ttl_s=60) as mesh:
        await unary(mesh)
        await eventually(lambda: cache_of(mesh).tally.kept == 1)
        async with Redis.from_url(valkey) as client:
            (key,) = await client.keys("*")
            assert 0 < await client.pttl(key) <= 60_000
        wall.advance(59)
        assert (await unary(mesh)).usage.HasField("cache")
        wall.advance(1)
        assert not (await unary(mesh)).usage.HasField("cache")


async def test_a_local_only_request_never_shares_an_entry_with_one_that_may_leave(valkey: str) -> None:
    async with caching_mesh(valkey, sensitive_ttl_s=60) as mesh:
        mesh.local.faults = Script(*[Refuse(TargetDown("gone"))] * 2)
        assert said(await unary(mesh, USE)) == "from the cloud"
        await eventually(lambda: cache_of(mesh).tally.kept == 1)
        assert said(await unary(mesh, LOCAL_ONLY)) == "one two three four five"
        await eventually(lambda: cache_of(mesh).tally.kept == 2)
        assert [said(await unary(mesh, policy)) for policy in (USE, LOCAL_ONLY)] == [
            "from the cloud",
            "one two three four five",
        ]
        assert cache_of(mesh).tally.hits == 2


async def test_a_local_only_request_leaves_nothing_behind_unless_the_owner_says_so(valkey: str) -> None:
    async with caching_mesh(valkey) as mesh:
        for _ in range(2):
            assert not (await unary(mesh, LOCAL_ONLY)).usage.HasField("cache")
    assert await keys(valkey) == []


async def test_an_answer_that_nobody_judged_is_not_given_to_who_wants_a_judged_one(valkey: str) -> None:
    live = v1.RoutingPolicy(
        cache=v1.CACHE_MODE_USE, allowed_targets=["local"], delivery=v1.Delivery(mode=v1.DELIVERY_MODE_LIVE)
    )
    judged = v1.RoutingPolicy(cache=v1.CACHE_MODE_USE, allowed_targets=["local"])
    async with caching_mesh(valkey) as mesh:
        assert said(await fold(mesh.stream(json_spec(), live))) == "one two three four five"
        mesh.local.answer = lambda spec: '{"ok": true}'
        assert said(await mesh.generate(json_spec(), judged)) == '{"ok": true}'
        hit = await fold(mesh.stream(json_spec(), live))
        assert hit.usage.HasField("cache")
        assert hit.usage.verdict.decision == v1.VERDICT_DECISION_ACCEPT


async def test_a_degraded_answer_does_not_outlive_what_degraded_it(valkey: str) -> None:
    complex_one = v1.RoutingPolicy(category=v1.CATEGORY_COMPLEX)
    async with caching_mesh(valkey) as mesh:
        mesh.cloud.faults = Script(*[Refuse(TargetDown("gone"))] * 2)
        assert (await unary(mesh, complex_one)).started.target == "local"
        assert (await unary(mesh, complex_one)).started.target == "cloud"


async def test_an_entry_that_cannot_be_read_is_a_miss_and_is_replaced(valkey: str) -> None:
    async with caching_mesh(valkey) as mesh, Redis.from_url(valkey) as client:
        await unary(mesh)
        await eventually(lambda: cache_of(mesh).tally.kept == 1)
        (key,) = await client.keys("*")
        await client.set(key, b"\x0a\xff garbage")
        assert not (await unary(mesh)).usage.HasField("cache")
        await eventually(lambda: cache_of(mesh).tally.kept == 2)
        assert (await unary(mesh)).usage.HasField("cache")


async def test_a_large_answer_is_given_and_not_kept(valkey: str) -> None:
    async with caching_mesh(valkey, max_bytes=50) as mesh:
        assert said(await unary(mesh)) == "one two three four five"
        await eventually(lambda: cache_of(mesh).tally.not_kept == 1)
    assert await keys(valkey) == []


async def test_a_request_of_another_router_is_not_answered_from_here(valkey: str) -> None:
    async with caching_mesh(valkey) as mesh:
        request = v1.GenerateRequest(spec=greedy(), policy=USE, stamp=v1.PolicyStamp(router="first"))
        for _ in range(2):
            await mesh.remote.unary(mesh.stub.Generate, request, Call("x", Deadline.after(10)), span_name="test")
        assert len(mesh.local.seen) == 2


async def test_answers_go_on_when_the_store_dies_in_the_middle() -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded_valkey())
        engine = HeldEngine(model="small")
        async with caching_mesh(url, local=engine) as mesh:
            engine.go.set()
            await unary(mesh)
            await eventually(lambda: cache_of(mesh).tally.kept == 1)
            engine.go.clear()
            asking = [asyncio.ensure_future(ask(mesh, REFRESH)) for ask in (unary, streamed)]
            await eventually(lambda: engine.running == 2)
            await stack.aclose()
            engine.go.set()
            answers = [*await asyncio.gather(*asking), await unary(mesh), await streamed(mesh)]
            assert {said(answer) for answer in answers} == {"one two three four five"}
            assert not any(answer.usage.HasField("cache") for answer in answers)
            assert cache_of(mesh).tally.store_failures >= 1
            engine.go.clear()
            asking = [asyncio.ensure_future(unary(mesh)) for _ in range(5)]
            await eventually(lambda: cache_of(mesh).waiting == 5)
            engine.go.set()
            assert sum(answer.usage.cache.shared for answer in await asyncio.gather(*asking)) == 4


async def test_a_store_that_is_silent_is_asked_once_and_left_alone() -> None:
    asked = 0
    quiet = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await quiet.wait()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    settings = CacheSettings(enabled=True, store=StoreSettings(url=url, timeout_s=0.05))
    async with running_mesh(cache=settings) as mesh:
        for _ in range(3):
            assert said(await unary(mesh)) == "one two three four five"
        assert cache_of(mesh).tally.store_failures == 1
    quiet.set()
    server.close()
    await server.wait_closed()
    assert asked == 1


async def test_the_span_of_a_request_says_what_the_cache_did(valkey: str) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("router", exporter=exporter)
    off = v1.RoutingPolicy(cache=v1.CACHE_MODE_OFF)
    async with caching_mesh(valkey, tracing=tracing) as mesh:
        await unary(mesh)
        await eventually(lambda: cache_of(mesh).tally.kept == 1)
        for policy in (None, REFRESH, off):
            await unary(mesh, policy)
    tracing.flush()
    told = [dict(span.attributes or {}) for span in exporter.get_finished_spans()]
    assert [one[names.CACHE] for one in told if names.CACHE in one] == ["miss", "hit", "refresh", "off"]
    assert [one[names.CACHE_REASON] for one in told if names.CACHE_REASON in one] == ["the request says so"]
    tracing.close()


async def test_a_cache_that_is_not_enabled_is_not_there() -> None:
    async with running_mesh() as mesh:
        for _ in range(2):
            assert not (await unary(mesh, USE)).usage.HasField("cache")
        assert mesh.cache is None


async def keys(url: str) -> list[bytes | str]:
    async with Redis.from_url(url) as client:
        return list(await client.keys("*"))
