"""One timer tells every generation of a session when its time is up."""

from __future__ import annotations

import asyncio
import time

import pytest

from spillway.session.alarms import SPARE, Alarms


class Rung:
    """Who was rung for, in order, and how to wait for so many."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, name: str) -> None:
        self.names.append(name)
        self._news.set()

    async def come(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(self.names) < count:
                self._news.clear()
                await self._news.wait()
        return self.names


async def test_each_is_rung_for_when_its_own_time_is_up_in_whatever_order_they_came() -> None:
    rung = Rung()
    alarms = Alarms({1: "last", 2: "first", 3: "second"}, rung)
    for number, seconds in ((1, 0.03), (2, 0.01), (3, 0.02)):
        alarms.add(number, seconds)
    assert await rung.come(3) == ["first", "second", "last"]


async def test_one_that_has_ended_is_not_rung_for() -> None:
    rung, living = Rung(), {1: "gone", 2: "here"}
    alarms = Alarms(living, rung)
    alarms.add(1, 0.01)
    alarms.add(2, 0.02)
    del living[1]
    assert await rung.come(1) == ["here"]


async def test_nobody_is_rung_for_once_they_are_stopped() -> None:
    rung, later = Rung(), Rung()
    alarms, others = Alarms({1: "one"}, rung), Alarms({1: "another"}, later)
    alarms.add(1, 0.01)
    others.add(1, 0.02)
    alarms.stop()
    assert await later.come(1) == ["another"]
    assert rung.names == []


async def test_deadlines_of_what_has_ended_do_not_pile_up() -> None:
    living: dict[int, str] = {}
    alarms = Alarms(living, Rung())
    for number in range(10_000):
        living[number] = "short"
        alarms.add(number, 600.0)
        del living[number]
    assert int(repr(alarms).split()[1]) <= SPARE + 2
    alarms.stop()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_none_is_rung_for_early_nor_forgotten_whatever_the_resolution_of_the_loop(loop: str) -> None:
    async def ring() -> None:
        early: list[float] = []
        rung = Rung()

        def ring_for(one: int) -> None:
            rung(str(one))
            early.append(due[one] - time.monotonic())

        due: dict[int, float] = {}
        alarms = Alarms({number: number for number in range(60)}, ring_for)
        for number in range(60):
            seconds = number % 3 * 0.0004
            due[number] = time.monotonic() + seconds
            alarms.add(number, seconds)
            if not number % 10:
                await asyncio.sleep(0)
        assert len(await rung.come(60)) == 60
        assert max(early) <= 0

    factory = asyncio.new_event_loop if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(ring())
