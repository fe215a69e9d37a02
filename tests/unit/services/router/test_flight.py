"""A flight: one answer, many who wait for it, and none of them in charge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from services.router.flight import Flight
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import Cancelled, DeadlineExceeded, TargetDown


class Source:
    """Makes events as it is told to."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self.landed = 0
        self.flight = Flight(self.make, self.land, timeout_s=10)

    async def make(self, flight: Flight) -> AsyncGenerator[v1.GenerationEvent]:
        while (told := await self.told.get()) is not None:
            if isinstance(told, Exception):
                raise told
            yield v1.GenerationEvent(delta=v1.Delta(text=told))

    async def land(self, flight: Flight) -> None:
        self.landed += 1

    async def texts(self, seconds: float = 10) -> list[str]:
        return [event.delta.text async for event in self.flight.wait(Deadline.after(seconds))]

    def begin(self, seconds: float = 10) -> asyncio.Task[list[str]]:
        return asyncio.create_task(self.texts(seconds))


async def test_who_joins_late_gets_everything_from_the_start() -> None:
    source = Source()
    early = source.begin()
    for word in ("a", "b"):
        source.told.put_nowait(word)
    await asyncio.sleep(0)
    late = source.begin()
    source.told.put_nowait(None)
    assert await early == await late == ["a", "b"]
    assert await source.texts() == ["a", "b"]
    await source.flight.task
    assert source.landed == 1


async def test_events_come_as_they_are_made() -> None:
    source = Source()
    async with aclosing(source.flight.wait(Deadline.after(10))) as events:
        source.told.put_nowait("a")
        assert (await anext(events)).delta.text == "a"
        assert not source.flight.over


async def test_the_first_may_leave_and_the_others_get_their_answer() -> None:
    source = Source()
    first, second = source.begin(), source.begin()
    source.told.put_nowait("a")
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    source.told.put_nowait(None)
    assert await second == ["a"]


async def test_the_last_one_to_leave_ends_it_and_nobody_else_gets_on() -> None:
    source = Source()
    tasks = [source.begin(), source.begin()]
    await asyncio.sleep(0)
    for task in tasks:
        assert source.flight.takes(10)
        task.cancel()
        await asyncio.wait([task])
    assert not source.flight.takes(10)
    await asyncio.wait([source.flight.task])
    assert source.flight.task.cancelled() and source.landed == 0


async def test_a_failure_is_everybodys_and_nothing_lands() -> None:
    source = Source()
    tasks = [source.begin(), source.begin()]
    source.told.put_nowait(TargetDown("gone"))
    assert [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == [TargetDown] * 2
    assert source.landed == 0
    assert not source.flight.takes(10)


async def test_a_waiter_whose_time_is_up_leaves_alone() -> None:
    source = Source()
    patient, hurried = source.begin(), source.begin(0.01)
    with pytest.raises(DeadlineExceeded):
        await hurried
    source.told.put_nowait("a")
    source.told.put_nowait(None)
    assert await patient == ["a"]


async def test_a_flight_that_is_ended_from_outside_is_no_whole_answer() -> None:
    source = Source()
    waiter = source.begin()
    source.told.put_nowait("a")
    await asyncio.sleep(0)
    source.flight.task.cancel()
    with pytest.raises(Cancelled):
        await waiter


async def test_requests_fly_together_only_if_their_deadlines_are_alike() -> None:
    source = Source()
    assert [source.flight.takes(left_s) for left_s in (1, 6, 7, 10, 14, 16)] == [False, False, True, True, True, False]
    source.flight.task.cancel()
    await asyncio.wait([source.flight.task])
