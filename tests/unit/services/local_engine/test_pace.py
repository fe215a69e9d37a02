"""The merging window of one stream."""

from __future__ import annotations

import asyncio

from services.local_engine.pace import Pace

LONG = 3600.0


async def test_the_end_of_the_answer_cuts_the_window_short() -> None:
    pace = Pace(lambda: LONG)
    pace.pulled()
    resting = asyncio.create_task(pace.rest())
    await asyncio.sleep(0)
    pace.end()
    await asyncio.wait_for(resting, 5)


async def test_after_the_end_no_one_rests() -> None:
    pace = Pace(lambda: LONG)
    pace.pulled()
    pace.end()
    await asyncio.wait_for(pace.rest(), 5)


async def test_a_window_of_nothing_never_rests() -> None:
    pace = Pace(lambda: 0.0)
    pace.pulled()
    await asyncio.wait_for(pace.rest(), 5)


async def test_a_window_ends_by_itself() -> None:
    pace = Pace(lambda: 0.001)
    pace.pulled()
    await asyncio.wait_for(pace.rest(), 5)


async def test_a_cancelled_rest_leaves_nothing_behind() -> None:
    pace = Pace(lambda: LONG)
    pace.pulled()
    resting = asyncio.create_task(pace.rest())
    await asyncio.sleep(0)
    resting.cancel()
    await asyncio.wait([resting])
    pace.end()
    assert resting.cancelled()
