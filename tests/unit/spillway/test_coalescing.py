from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway import v1
from spillway.coalescing import pulled, window_end, window_s

WINDOW = 0.02


class Source:
    """Numbers that come due one a millisecond; hands over all that are due when asked, as an engine does."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.pulls: list[float] = []
        self.closed = False

    async def events(self) -> AsyncGenerator[list[int], None]:
        clock = asyncio.get_running_loop().time
        began, sent = clock(), 0
        try:
            while sent < self.total:
                self.pulls.append(clock())
                while (due := min(int((clock() - began) / 0.001) + 1, self.total)) <= sent:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                yield list(range(sent, due))
                sent = due
        finally:
            self.closed = True


@pytest.mark.parametrize("window", [0.0, WINDOW])
async def test_everything_arrives_once_and_in_order(window: float) -> None:
    source = Source(100)

    arrived = [number async for numbers in pulled(source.events(), window) for number in numbers]

    assert arrived == list(range(100))
    assert source.closed


async def test_the_first_item_is_never_held() -> None:
    source = Source(100)
    async with aclosing(pulled(source.events(), 3600)) as events:
        assert await anext(events) == [0]


async def test_later_items_come_at_most_once_a_window_from_the_first_that_ends() -> None:
    source = Source(100)

    count = len([numbers async for numbers in pulled(source.events(), WINDOW)])

    gaps = [later - earlier for earlier, later in zip(source.pulls, source.pulls[1:], strict=False)]
    assert min(gaps[1:]) > WINDOW / 2  # a pull that is late does not put off the next
    assert count < 20


@given(st.floats(1e-3, 1e7), st.floats(1e-3, 1.0))
def test_nothing_is_held_longer_than_a_window(now: float, window: float) -> None:
    assert 0 < window_end(now, window) - now <= window * 1.002


@given(st.integers(1, 10**6), st.floats(1e-3, 1.0), st.floats(0, 0.99))
def test_windows_that_begin_a_little_late_end_together_all_the_same(number: int, window: float, late: float) -> None:
    assert window_end((number + late) * window, window) == window_end(number * window, window) == (number + 1) * window


async def test_without_a_window_nothing_waits() -> None:
    async def many() -> AsyncIterator[int]:
        for number in range(10_000):
            yield number

    assert len([number async for number in pulled(many(), 0)]) == 10_000


@pytest.mark.parametrize("window", [0.0, WINDOW])
async def test_leaving_early_closes_the_source(window: float) -> None:
    source = Source(100)

    async with aclosing(pulled(source.events(), window)) as events:
        async for _ in events:
            break

    assert source.closed


async def test_a_cancel_during_the_pause_closes_the_source() -> None:
    source = Source(100)
    got = asyncio.Event()

    async def read() -> None:
        async with aclosing(pulled(source.events(), 3600)) as events:
            async for _ in events:
                got.set()

    task = asyncio.create_task(read())
    await got.wait()
    task.cancel()
    await asyncio.wait([task])

    assert source.closed


async def test_an_error_of_the_source_passes() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("the source's")

    arrived = []
    with pytest.raises(ValueError, match="the source's"):
        async for item in pulled(broken(), 0.001):
            arrived.append(item)  # noqa: PERF401
    assert arrived == [1]


def test_the_callers_window_is_taken_before_the_servers() -> None:
    assert window_s(v1.Coalescing(), 0.02) == 0.02
    assert window_s(v1.Coalescing(window_ms=5), 0.02) == 0.005
    assert window_s(v1.Coalescing(window_ms=0), 0.02) == 0
