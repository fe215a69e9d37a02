from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spillway import v1
from spillway.reservation import Reservation
from spillway.rpc.remote import Remote
from spillway.rpc.spread import Spread
from spillway.session.client import Session
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, services
from spillway.testing.server import LOOPBACK, serving
from spillway.v1 import inference_pb2_grpc
from spillway.worker import Worker


class Site:
    """Workers of one service, in this process, on one port."""

    def __init__(self, count: int, folder: Path, stack: AsyncExitStack) -> None:
        self._count = count
        self._folder = folder
        self._stack = stack
        self._running: dict[int, AsyncExitStack] = {}
        self._reservation = stack.enter_context(Reservation())
        self.engines: dict[int, FakeEngine] = {}

    @property
    def address(self) -> str:
        return self._reservation.hold("server.listen", LOOPBACK.listen)

    async def start(self, number: int) -> None:
        engine = self.engines[number] = FakeEngine(model=f"worker {number}")
        settings = LOOPBACK.of(Worker(number, self._count, "run", str(self._folder)), self._reservation.hold)
        running = self._running[number] = await self._stack.enter_async_context(AsyncExitStack())
        await running.enter_async_context(serving(*services(engine), settings=settings))

    async def end(self, number: int) -> None:
        await self._running.pop(number).aclose()

    async def end_all(self) -> None:
        """End the service whole: another may listen there."""
        for number in list(self._running):
            await self.end(number)
        self._reservation.__exit__()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as found:
        yield found


async def sited(workers: int, folder: Path, stack: AsyncExitStack) -> Site:
    """A site all of whose workers have started."""
    site = Site(workers, folder, stack)
    for number in range(workers):
        await site.start(number)
    return site


@asynccontextmanager
async def reached(address: str) -> AsyncIterator[tuple[Remote, Spread]]:
    remote = Remote(address, tracing=Tracing("test"), spread=True)
    try:
        assert isinstance(remote.channel, Spread)
        yield remote, remote.channel
    finally:
        await remote.close()


async def all_found(spread: Spread, workers: int) -> None:
    async with asyncio.timeout(30):
        while await spread.look() != workers or spread.breadth < workers:
            pass


async def who_answered(remote: Remote, spec: Any, call: Any, times: int) -> Counter[str]:
    stub = inference_pb2_grpc.InferenceServiceStub(remote.channel)
    request = v1.GenerateRequest(spec=spec())
    answers = await asyncio.gather(
        *(remote.unary(stub.Generate, request, call(), span_name="test") for _ in range(times))
    )
    return Counter(answer.started.model for answer in answers)


async def test_each_worker_has_one_connection_and_as_many_calls(
    tmp_path: Path, stack: AsyncExitStack, call: Any, spec: Any
) -> None:
    site = await sited(3, tmp_path, stack)
    async with reached(site.address) as (remote, spread):
        await all_found(spread, 3)
        found = await who_answered(remote, spec, call, 30)
    assert found == {"worker 0": 10, "worker 1": 10, "worker 2": 10}


async def test_a_worker_that_was_started_again_gets_its_connection_back(
    tmp_path: Path, stack: AsyncExitStack, call: Any, spec: Any
) -> None:
    site = await sited(2, tmp_path, stack)
    async with reached(site.address) as (remote, spread):
        await all_found(spread, 2)
        await site.end(1)
        assert await who_answered(remote, spec, call, 4) == {"worker 0": 4}
        await site.start(1)
        while len(await who_answered(remote, spec, call, 4)) < 2:
            await spread.look()
        assert await who_answered(remote, spec, call, 10) == {"worker 0": 5, "worker 1": 5}


async def test_before_one_worker_alone_there_is_one_connection(call: Any, spec: Any) -> None:
    async with (
        serving(*services(FakeEngine(model="only"))) as server,
        reached(server.address) as (remote, spread),
    ):
        assert await spread.look() == 1
        assert await who_answered(remote, spec, call, 4) == {"only": 4}
        assert remote.breadth == 1


async def test_where_one_worker_alone_takes_the_place_of_several_one_connection_is_left(
    tmp_path: Path, stack: AsyncExitStack, call: Any, spec: Any
) -> None:
    site = await sited(2, tmp_path, stack)
    async with reached(site.address) as (remote, spread):
        await all_found(spread, 2)
        await site.end_all()
        settings = LOOPBACK.model_copy(update={"listen": site.address})
        async with serving(*services(FakeEngine(model="only")), settings=settings):
            while await spread.look() != 1:
                pass
            assert (remote.breadth, spread._leaving) == (1, [])
            assert await who_answered(remote, spec, call, 4) == {"only": 4}


async def test_sessions_stay_where_their_connection_stays_and_each_worker_has_one(
    tmp_path: Path, stack: AsyncExitStack, call: Any, spec: Any
) -> None:
    site = await sited(2, tmp_path, stack)
    for engine in site.engines.values():
        engine.interval_s = 60
    async with reached(site.address) as (remote, spread):
        await all_found(spread, 2)
        session = Session(remote)
        request = v1.StreamGenerateRequest(spec=spec())
        async with AsyncExitStack() as generations:
            for _ in range(2):
                await anext(await generations.enter_async_context(session.stream(request, call(), span_name="test")))
            both = session._here()
            await site.end(1)
            await site.start(1)
            site.engines[1].interval_s = 60
            await all_found(spread, 2)
            kept = [link for link in both if not link.closed]
            assert (session._here(), len(kept)) == (kept, 1)
            await anext(await generations.enter_async_context(session.stream(request, call(), span_name="test")))
            assert [engine.running for engine in site.engines.values()] == [1, 1]
        await session.close()


async def test_nothing_is_known_of_who_is_not_there() -> None:
    with Reservation() as reservation:
        async with reached(reservation.hold("nobody", LOOPBACK.listen)) as (remote, spread):
            assert await spread.look() == 0
            assert remote.breadth == 1
