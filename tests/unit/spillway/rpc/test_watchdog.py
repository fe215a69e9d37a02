from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spillway.rpc.watchdog import LATE, Watchdog


class HandLoop(asyncio.SelectorEventLoop):
    """A loop whose time is moved by hand; its timers run when `advance` passes them."""

    now = 100.0

    def time(self) -> float:
        return self.now

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(5):
            self.call_soon(lambda: None)
            await asyncio.sleep(0)


def run(test: Any) -> None:
    loop = HandLoop()
    try:
        loop.run_until_complete(test(loop))
    finally:
        loop.close()


def test_it_barks_once_after_the_silence_it_was_told_to_watch() -> None:
    async def test(loop: HandLoop) -> None:
        barks: list[float] = []
        dog = Watchdog(2.0, lambda: barks.append(loop.now))
        dog.watch()
        await loop.advance(1.9)
        assert not dog.barked
        await loop.advance(0.2)
        await loop.advance(10)
        assert (len(barks), dog.barked) == (1, True)

    run(test)


def test_it_is_quiet_while_it_rests() -> None:
    async def test(loop: HandLoop) -> None:
        dog = Watchdog(2.0, lambda: pytest.fail("barked at rest"))
        await loop.advance(5)
        dog.watch()
        await loop.advance(1)
        dog.rest()
        await loop.advance(5)
        assert repr(dog) == "<Watchdog 2.0 s resting>"
        dog.stop()

    run(test)


def test_every_sign_of_life_starts_the_count_anew() -> None:
    async def test(loop: HandLoop) -> None:
        dog = Watchdog(2.0, lambda: pytest.fail("barked at a living one"))
        for _ in range(5):
            dog.watch()
            await loop.advance(1.5)
        dog.stop()
        await loop.advance(10)

    run(test)


def test_another_limit_counts_from_now() -> None:
    async def test(loop: HandLoop) -> None:
        barks: list[float] = []
        dog = Watchdog(10.0, lambda: barks.append(loop.now))
        dog.watch()
        await loop.advance(9)
        dog.limit(2.0)
        await loop.advance(1.5)
        assert barks == []
        await loop.advance(1)
        assert len(barks) == 1

    run(test)


def test_what_is_counted_is_a_sign_of_life_and_its_silence_is_noticed_a_little_late() -> None:
    async def test(loop: HandLoop) -> None:
        passed, barks = 7, []
        dog = Watchdog(2.0, lambda: barks.append(loop.now), count=lambda: passed)
        dog.watch()
        for _ in range(20):
            passed += 1
            await loop.advance(0.5)
        last = loop.now
        while not dog.barked:
            await loop.advance(0.1)
        assert 1.99 < barks[0] - last < 2.0 * (1 + LATE) + 0.1

    run(test)


def test_what_was_counted_before_is_none() -> None:
    async def test(loop: HandLoop) -> None:
        dog = Watchdog(2.0, lambda: None, count=lambda: 7)
        dog.watch()
        for _ in range(21):
            await loop.advance(0.1)
        assert dog.barked

    run(test)
