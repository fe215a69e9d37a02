"""Background answers leave seats to interactive ones."""

from __future__ import annotations

import asyncio

import pytest

from services.local_engine.seats import Seats


async def sit(seats: Seats, gone: asyncio.Event, *, background: bool) -> None:
    async with seats.taken(background=background):
        await gone.wait()


@pytest.mark.parametrize(
    ("seats", "kept", "background"),
    [(16, 0.1, 14), (16, 0.0, 16), (2, 0.1, 1), (1, 0.5, 1), (8, 0.9, 1), (256, 0.1, 230)],
)
def test_a_share_of_the_seats_is_kept_and_one_seat_is_everybodys(seats: int, kept: float, background: int) -> None:
    assert Seats(seats, kept).background == background


async def test_background_answers_wait_for_one_of_their_seats_and_interactive_ones_do_not() -> None:
    seats, gone = Seats(2, 0.5), asyncio.Event()
    tasks = [asyncio.create_task(sit(seats, gone, background=True)) for _ in range(3)]
    await asyncio.sleep(0)
    assert repr(seats) == "<Seats 1 for background answers, 2 waiting>"
    async with asyncio.timeout(1), seats.taken(background=False):
        pass
    gone.set()
    await asyncio.gather(*tasks)
    assert seats.waiting == 0


async def test_one_that_leaves_while_it_waits_takes_no_seat_along() -> None:
    seats, gone = Seats(1, 0.0), asyncio.Event()
    first = asyncio.create_task(sit(seats, gone, background=True))
    second = asyncio.create_task(sit(seats, gone, background=True))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert seats.waiting == 0
    gone.set()
    await first
    async with asyncio.timeout(1), seats.taken(background=True):
        pass
