"""Admission, replicas and idempotency, over real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from services.router.admission import Admission
from services.router.app import build
from services.router.load_watch import load_watch
from services.router.loads import Loads
from services.router.policy_settings import TargetSettings
from services.router.replicas import Occupancy
from services.router.router import Router
from services.router.settings import RouterSettings
from services.router.target import Target
from services.router.watch import Watches
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import DeadlineExceeded, DeadlineUnmeetable, QueueFull, RequestIdInUse, RequestIdReused, TargetDown
from spillway.generation import fold
from spillway.rpc.call import Call, Caller
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Refuse, Script, Silence
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from spillway.v1 import inference_pb2_grpc
from tests.integration.router.mesh import CAPABILITIES, text


@dataclass
class Site:
    """A router before replicas of one model."""

    engines: list[FakeEngine]
    router: Router
    remote: Remote

    def __post_init__(self) -> None:
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)

    @property
    def admission(self) -> Admission:
        return self.router.gate.admission

    async def generate(
        self, spec: v1.GenerationSpec, *, deadline_s: float = 20.0, tenant: str = "t"
    ) -> v1.GenerateResponse:
        call = Call("test", Deadline.after(deadline_s), caller=Caller(tenant))
        return await self.remote.unary(self.stub.Generate, v1.GenerateRequest(spec=spec), call, span_name="test")

    async def stream(self, spec: v1.GenerationSpec) -> AsyncGenerator[v1.GenerationEvent]:
        call = Call("test", Deadline.after(20.0), caller=Caller("t"))
        request = v1.StreamGenerateRequest(spec=spec)
        async with self.remote.stream(self.stub.StreamGenerate, request, call, span_name="test") as rpc:
            async for response in rpc:
                yield response.event

    def begin(self, spec: v1.GenerationSpec, deadline_s: float = 20.0) -> asyncio.Task[v1.GenerateResponse]:
        return asyncio.create_task(self.generate(spec, deadline_s=deadline_s))

    def load(self, name: str) -> Occupancy | None:
        return self.router.loads.snapshot().get(name)


@asynccontextmanager
async def running_site(
    *engines: FakeEngine, admission: dict[str, Any] | None = None, concurrency: int | None = None
) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        targets = []
        for number, engine in enumerate(engines):
            server = await stack.enter_async_context(serving_engine(engine))
            targets.append(
                TargetSettings(
                    name=f"r{number}",
                    kind="local",
                    address=server.address,
                    weights="w",
                    concurrency=concurrency,
                    capabilities=CAPABILITIES,
                )
            )
        settings = RouterSettings(server=LOOPBACK, targets=tuple(targets), admission=admission or {})
        app = await stack.enter_async_context(build(settings, keep=lambda attempt, call: None))
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        yield Site(list(engines), app.router, remote)


def background() -> v1.GenerationSpec:
    spec = text()
    spec.priority = v1.PRIORITY_BACKGROUND
    return spec


def named(request_id: str, prompt: str = "hello there") -> v1.GenerationSpec:
    spec = text(prompt)
    spec.request_id = request_id
    return spec


# The queue


async def test_of_a_burst_as_many_run_and_wait_as_may_and_the_rest_is_told_when_to_come_back() -> None:
    engine = FakeEngine(first_s=0.5)
    most = 0

    def answer(spec: v1.GenerationSpec) -> str:
        nonlocal most
        most = max(most, engine.running)
        return "done"

    engine.answer = answer
    async with running_site(engine, admission={"max_running": 8, "max_waiting": 50}) as site:
        ended = await asyncio.gather(*(site.generate(text()) for _ in range(500)), return_exceptions=True)
        refused = [error for error in ended if isinstance(error, QueueFull)]
        answered = [one for one in ended if isinstance(one, v1.GenerateResponse)]
        assert len(refused) + len(answered) == 500
        assert len(answered) >= 58
        assert all(error.retry_after_s for error in refused)
        assert most == 8
        assert (site.admission.running, site.admission.waiting) == (0, 0)


async def test_a_caller_that_leaves_the_queue_frees_its_place() -> None:
    engine = FakeEngine(faults=Script(Silence()))
    async with running_site(engine, admission={"max_running": 1, "max_waiting": 1}) as site:
        runs = site.begin(text())
        await eventually(lambda: site.admission.running == 1)
        leaves = site.begin(text())
        await eventually(lambda: site.admission.waiting == 1)
        leaves.cancel()
        await eventually(lambda: site.admission.waiting == 0)
        stays = site.begin(text())
        await eventually(lambda: site.admission.waiting == 1)
        runs.cancel()
        assert (await stays).choices
        assert len(engine.seen) == 2
        await eventually(lambda: site.admission.running == 0)


async def test_a_deadline_ends_the_wait_and_frees_its_place() -> None:
    engine = FakeEngine(faults=Script(None, Silence()))
    async with running_site(engine, admission={"max_running": 1}) as site:
        await site.generate(text())
        runs = site.begin(text())
        await eventually(lambda: engine.running == 1)
        with pytest.raises(DeadlineExceeded):
            await site.generate(text(), deadline_s=0.3)
        await eventually(lambda: site.admission.waiting == 0)
        assert len(engine.seen) == 2
        runs.cancel()


async def test_a_deadline_that_cannot_be_met_is_refused_at_the_door() -> None:
    engine = FakeEngine(faults=Script(None, Silence()), first_s=0.5)
    async with running_site(engine, admission={"max_running": 1}) as site:
        await site.generate(text())
        runs = site.begin(text())
        await eventually(lambda: engine.running == 1)
        with pytest.raises(DeadlineUnmeetable):
            await site.generate(text(), deadline_s=0.8)
        assert site.admission.waiting == 0
        runs.cancel()


async def test_a_stream_holds_its_place_until_it_ends_or_its_reader_leaves() -> None:
    engine = FakeEngine(interval_s=0.05)
    async with running_site(engine, admission={"max_running": 1}) as site:
        async with aclosing(site.stream(text())) as events:
            await anext(events)
            waits = site.begin(background())
            await eventually(lambda: site.admission.waiting == 1)
        assert (await waits).choices
        await fold(site.stream(text()))
        await eventually(lambda: site.admission.running == 0)


# Replicas


async def test_the_faster_of_two_replicas_gets_more() -> None:
    slow, fast = FakeEngine(first_s=0.2), FakeEngine(first_s=0.01)
    async with running_site(slow, fast) as site:

        async def ask() -> None:
            for _ in range(10):
                await site.generate(text())

        await asyncio.gather(*(ask() for _ in range(6)))
        assert len(fast.seen) > 2 * len(slow.seen) > 0


async def test_what_an_engine_says_of_other_callers_counts() -> None:
    busy, idle = FakeEngine(others=20), FakeEngine()
    async with running_site(busy, idle) as site:
        await eventually(lambda: site.load("r0") == Occupancy(0, 20.0) and site.load("r1") == Occupancy(0, 0.0))
        assert (await site.generate(text())).started.target == "r1"
        busy.others, idle.others = 0, 20
        await eventually(lambda: site.load("r1") == Occupancy(0, 20.0))
        assert (await site.generate(text())).started.target == "r0"


async def test_a_lost_engine_is_unknown_and_one_that_no_policy_names_is_not_watched() -> None:
    loads, engine = Loads(), FakeEngine(others=3)
    async with AsyncExitStack() as stack:
        watches = Watches(load_watch(loads), lambda address: Remote(address, tracing=Tracing("test")), draw=lambda: 0.0)
        stack.push_async_callback(watches.close)
        async with serving_engine(engine) as server:
            target = Target("r0", "local", server.address)
            loads.adopt([target])
            watches.adopt([target, Target("cloud", "cloud", server.address)])
            await eventually(lambda: loads.snapshot() == {"r0": Occupancy(0, 3.0)})
            watches.adopt([])
            await eventually(lambda: repr(watches) == "<Watches of load 0>")
            watches.adopt([target])
        await eventually(lambda: loads.snapshot() == {})


async def test_a_session_stays_with_its_replica() -> None:
    async with running_site(FakeEngine(), FakeEngine(), FakeEngine()) as site:
        homes: dict[str, set[str]] = {}
        for _ in range(3):
            for session in map(str, range(12)):
                spec = text()
                spec.session_id = session
                homes.setdefault(session, set()).add((await site.generate(spec)).started.target)
        assert {len(found) for found in homes.values()} == {1}
        assert len(set().union(*homes.values())) == 3


async def test_a_target_at_its_bound_is_passed_over_and_the_last_one_is_waited_for() -> None:
    engines = FakeEngine(first_s=0.1), FakeEngine(first_s=0.1)
    async with running_site(*engines, concurrency=2) as site:
        answers = await asyncio.gather(*(site.generate(text()) for _ in range(12)))
        served = Counter(answer.started.target for answer in answers)
        assert min(served.values()) > 3
        engines[0].faults = engines[1].faults = Script(always=Refuse(TargetDown("gone")))
        await asyncio.gather(*(site.generate(text()) for _ in range(8)), return_exceptions=True)
        assert repr(site.router.loads) == "<Loads idle>"


async def test_who_waits_for_a_bounded_target_may_leave() -> None:
    engine = FakeEngine(faults=Script(Silence()))
    async with running_site(engine, concurrency=1) as site:
        runs = site.begin(text())
        await eventually(lambda: engine.running == 1)
        with pytest.raises(DeadlineExceeded):
            await site.generate(text(), deadline_s=0.2)
        leaves = site.begin(text())
        await eventually(lambda: repr(site.router.loads) == "<Loads r0 2>")
        leaves.cancel()
        await eventually(lambda: repr(site.router.loads) == "<Loads r0 1>")
        runs.cancel()
        await eventually(lambda: repr(site.router.loads) == "<Loads idle>")
        assert (await site.generate(text())).choices


# Idempotency


async def test_the_same_request_again_gets_the_same_answer() -> None:
    engine = FakeEngine()
    async with running_site(engine) as site:
        first, second = await site.generate(named("a")), await site.generate(named("a"))
        assert first == second
        assert len(engine.seen) == 1
        await site.generate(named("a"), tenant="other")
        assert len(engine.seen) == 2


async def test_a_repeat_while_the_first_runs_waits_for_it() -> None:
    engine = FakeEngine(first_s=0.2)
    async with running_site(engine) as site:
        answers = await asyncio.gather(*(site.generate(named("a")) for _ in range(10)))
        assert all(answer == answers[0] for answer in answers)
        assert len(engine.seen) == 1


async def test_a_repeat_is_answered_though_the_first_is_cancelled() -> None:
    engine = FakeEngine(faults=Script(Silence()))
    async with running_site(engine) as site:
        first = site.begin(named("a"))
        await eventually(lambda: engine.running == 1)
        second = site.begin(named("a"))
        first.cancel()
        assert (await second).choices


async def test_a_failure_is_not_kept() -> None:
    engine = FakeEngine(faults=Script(*[Refuse(TargetDown("gone"))] * 2))  # it is asked again at once
    async with running_site(engine) as site:
        with pytest.raises(Exception, match="all targets failed"):
            await site.generate(named("a"))
        assert (await site.generate(named("a"))).choices


async def test_an_id_with_another_body_is_refused() -> None:
    async with running_site(FakeEngine()) as site:
        await site.generate(named("a"))
        with pytest.raises(RequestIdReused) as caught:
            await site.generate(named("a", "something else"))
        assert caught.value.resource == "a"


async def test_a_second_stream_under_an_id_is_refused_while_the_first_runs() -> None:
    async with running_site(FakeEngine(interval_s=0.05)) as site:
        async with aclosing(site.stream(named("a"))) as events:
            await anext(events)
            with pytest.raises(RequestIdInUse):
                await fold(site.stream(named("a")))
            with pytest.raises(RequestIdInUse):
                await site.generate(named("a"))
            async for _ in events:
                pass
        assert (await fold(site.stream(named("a")))).choices
