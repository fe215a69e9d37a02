"""What those who watch an engine's load are told."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from spillway import v1
from spillway.load import watch

QUICK = v1.WatchLoadRequest(interval_ms=0)


async def test_a_load_is_told_at_once_and_then_when_it_has_changed() -> None:
    load = v1.Load(state=v1.ENGINE_STATE_SERVING, running=1, waiting=0)
    async with asyncio.timeout(10), aclosing(watch(QUICK, lambda: copy(load), heartbeat_s=1e6)) as loads:
        first = await anext(loads)
        load.waiting = 4
        second = await anext(loads)
    assert (first.sequence, first.load.waiting) == (1, 0)
    assert (second.sequence, second.load.waiting) == (2, 4)


async def test_a_load_that_stays_is_told_again_with_its_age() -> None:
    ages = iter(range(1000))
    async with asyncio.timeout(10), aclosing(watch(QUICK, lambda: v1.Load(age_ms=next(ages)), heartbeat_s=0)) as loads:
        assert [(await anext(loads)).load.age_ms for _ in range(3)] == [0, 1, 2]


async def test_an_unknown_load_and_an_idle_engine_are_told_apart() -> None:
    told = iter([v1.Load(), v1.Load(running=0)])
    async with asyncio.timeout(10), aclosing(watch(QUICK, lambda: next(told), heartbeat_s=1e6)) as loads:
        assert [(await anext(loads)).load.HasField("running") for _ in range(2)] == [False, True]


async def test_a_watch_ends_when_the_engine_drains() -> None:
    async with asyncio.timeout(10):
        told = [one async for one in watch(QUICK, lambda: v1.Load(state=v1.ENGINE_STATE_DRAINING))]
    assert len(told) == 1


def copy(load: v1.Load) -> v1.Load:
    found = v1.Load()
    found.CopyFrom(load)
    return found
