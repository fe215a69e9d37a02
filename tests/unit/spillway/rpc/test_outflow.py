"""Who leaves a stream leaves nothing behind that somebody would have to hear of."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from spillway import v1
from spillway.errors import TargetDown
from spillway.rpc.outflow import MAX_WAITING, Outflow


async def made(count: int) -> AsyncGenerator[v1.GenerationEvent]:
    for number in range(count):
        yield v1.GenerationEvent(sequence=number)
    raise TargetDown("gone")


async def test_a_slow_reader_gets_all_in_order_and_then_what_ended_it() -> None:
    events = Outflow().events(made(5 * MAX_WAITING))
    read = []
    with pytest.raises(TargetDown):
        async for event in events:
            assert isinstance(event, v1.GenerationEvent)
            read.append(event.sequence)
            await asyncio.sleep(0)
    assert read == list(range(5 * MAX_WAITING))


async def test_a_failure_after_the_reader_has_left_is_nobodys() -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
    events = Outflow().events(made(3))
    await anext(events)
    for _ in range(9):
        await asyncio.sleep(0)
    await events.aclose()
    del events
    gc.collect()
    assert unheard == []
