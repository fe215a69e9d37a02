"""The line before a provider's limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.cloud_proxy.limiter import Reservation
from services.cloud_proxy.limits import ALLOWED, NOTHING, Decision
from services.cloud_proxy.line import Line, Try
from services.cloud_proxy.turns import Turn
from spillway.testing.clock import HandClock


async def _give_back(reservation: Reservation) -> None:
    raise AssertionError(f"nobody here gives back {reservation}")


@asynccontextmanager
async def line(clock: HandClock, *, max_waiting: int = 10) -> AsyncIterator[Line]:
    found = Line(clock=clock, max_waiting=max_waiting, give_back=_give_back)
    try:
        yield found
    finally:
        await found.close()


def turn(tenant: str, *scopes: str, weight: float = 0.1, background: bool = False) -> Turn:
    return Turn(tenant, background, frozenset(("", *scopes)), weight)


def says(*decisions: Decision) -> Try:
    """A try that is decided so, one after the other, the last one for ever."""
    left = list(decisions)

    async def attempt() -> tuple[Decision, Reservation | None]:
        decision = left.pop(0) if len(left) > 1 else left[0]
        return decision, Reservation("r", "p", (), NOTHING, NOTHING, 0) if decision.allowed else None

    return attempt


def held(scope: str, seconds: float) -> Decision:
    return Decision(False, "requests_per_minute", seconds, scope)


async def begun(waiting: asyncio.Task[tuple[Decision, Reservation | None]]) -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()


async def test_what_held_somebody_who_is_gone_holds_nobody_else() -> None:
    clock = HandClock()
    async with line(clock) as found:
        gone = asyncio.create_task(found.take(says(held("model:m", 50)), turn("a", "model:m"), 60))
        await begun(gone)
        gone.cancel()
        await asyncio.wait({gone})
        clock.advance(1)
        coming = found.take(says(held("", 0.1), ALLOWED), turn("b", "model:m"), 5)
        waiting = asyncio.create_task(coming)
        await begun(waiting)
        found.wake()
        assert (await waiting)[0] == ALLOWED


async def test_who_is_first_and_asks_for_little_is_not_kept_out_by_who_asks_for_much() -> None:
    async with line(HandClock()) as found:
        much = asyncio.create_task(found.take(says(held("", 50)), turn("a", weight=0.9, background=True), 60))
        await begun(much)
        little = asyncio.create_task(found.take(says(ALLOWED), turn("b", weight=0.01), 5))
        await begun(little)
        found.wake()
        assert (await little)[0] == ALLOWED
        much.cancel()


@pytest.mark.parametrize("weight", [0.1, 0.01])
async def test_who_is_behind_somebody_held_longer_than_it_may_wait_is_told_so_at_once(weight: float) -> None:
    async with line(HandClock()) as found:
        first = asyncio.create_task(found.take(says(held("", 50)), turn("a"), 60))
        await begun(first)
        assert await found.take(says(ALLOWED), turn("b", weight=weight), 5) == (held("", 50), None)
        first.cancel()


@pytest.mark.parametrize("scopes", [(), ("tenant:b",)])
async def test_no_more_wait_than_may_whatever_holds_them(scopes: tuple[str, ...]) -> None:
    async with line(HandClock(), max_waiting=1) as found:
        first = asyncio.create_task(found.take(says(held("tenant:a", 5)), turn("a", "tenant:a"), 60))
        await begun(first)
        decision, reservation = await found.take(says(ALLOWED), turn("b", *scopes), 5)
        assert reservation is None
        assert not decision.allowed
        first.cancel()
