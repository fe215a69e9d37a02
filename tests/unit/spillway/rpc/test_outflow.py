"""One stream of what is made and what passes by."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from spillway import v1
from spillway.errors import TargetDown
from spillway.rpc.outflow import MAX_WAITING, Outflow


def event(number: int) -> v1.GenerationEvent:
    return v1.GenerationEvent(sequence=number)


def told(number: int) -> bytes:
    return event(number).SerializeToString() or b"\x08\0"


async def test_events_come_in_the_order_in_which_they_were_made_and_passed_by() -> None:
    outflow = Outflow()
    outflow.lane.open = True

    async def made() -> AsyncGenerator[v1.GenerationEvent]:
        yield event(0)
        assert outflow.lane.take(told(1), 1)
        await asyncio.sleep(0)
        assert outflow.lane.take(told(2), 1)
        yield event(3)

    found = [each if isinstance(each, bytes) else each.sequence async for each in outflow.events(made())]
    assert found == [0, told(0), told(1), 3]


async def test_an_error_comes_after_what_came_before_it() -> None:
    async def made() -> AsyncGenerator[v1.GenerationEvent]:
        yield event(0)
        raise TargetDown("gone")

    async with aclosing(Outflow().events(made())) as events:
        assert await anext(events) == event(0)
        with pytest.raises(TargetDown):
            await anext(events)


async def test_a_reader_that_takes_nothing_holds_up_who_makes_and_who_passes_by() -> None:
    outflow, made_so_far = Outflow(), 0
    outflow.lane.open = True

    async def made() -> AsyncGenerator[v1.GenerationEvent]:
        nonlocal made_so_far
        while True:
            made_so_far += 1
            yield event(made_so_far)

    async with aclosing(outflow.events(made())) as events:
        await anext(events)
        for _ in range(MAX_WAITING * 4):
            await asyncio.sleep(0)
        assert made_so_far <= MAX_WAITING + 2
        assert not outflow.lane.take(told(9), 1)
        for _ in range(MAX_WAITING * 2):
            await anext(events)
        assert made_so_far > MAX_WAITING


async def test_who_makes_ends_when_the_reader_leaves_and_its_last_error_is_nobodys() -> None:
    ended = []

    async def made() -> AsyncGenerator[v1.GenerationEvent]:
        try:
            yield event(0)
            await asyncio.Event().wait()
        finally:
            ended.append(True)
            raise TargetDown("in the very moment")

    unheard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    async with aclosing(Outflow().events(made())) as events:
        await anext(events)
        await asyncio.sleep(0)
    assert ended == [True]
    del events
    assert unheard == []


async def test_an_outflow_that_is_over_needs_no_garbage_collector() -> None:
    async def made() -> AsyncGenerator[v1.GenerationEvent]:
        yield event(0)

    gc.collect()
    gc.disable()
    try:
        outflow = Outflow()
        over = weakref.ref(outflow)
        assert [each async for each in outflow.events(made())] == [event(0)]
        del outflow
        await asyncio.sleep(0)
        assert over() is None
    finally:
        gc.enable()
