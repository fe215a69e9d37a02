"""The gate: waiting for admission, and leaving at any moment."""

from __future__ import annotations

import asyncio

import pytest

from services.router.admission import Ticket
from services.router.admission_settings import AdmissionSettings
from services.router.gate import Gate
from spillway.deadline import Deadline
from spillway.errors import DeadlineUnmeetable
from spillway.testing.clock import HandClock


class Door:
    """A gate with one place, taken."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.gate = Gate(AdmissionSettings(max_running=1), self.clock)

    async def enter(self, seconds: float = 100.0) -> Ticket:
        return await self.gate.enter("t", background=False, deadline=Deadline.after(seconds, self.clock))

    async def waiter(self, seconds: float = 100.0) -> asyncio.Task[Ticket]:
        task = asyncio.create_task(self.enter(seconds))
        await asyncio.sleep(0)
        return task


async def test_who_waits_runs_when_a_place_is_free_and_knows_how_long_it_waited() -> None:
    door = Door()
    first = await door.enter()
    waiter = await door.waiter()
    door.clock.advance(3)
    door.gate.leave(first)
    ticket = await waiter
    assert (ticket.running, ticket.waited_s) == (True, 3.0)
    door.gate.leave(ticket)
    assert repr(door.gate) == "<Gate 0 running 0 waiting>"


@pytest.mark.parametrize("granted", [False, True], ids=["while it waits", "when its place is already granted"])
async def test_a_cancel_leaks_no_place(granted: bool) -> None:
    door = Door()
    first = await door.enter()
    leaves, stays = await door.waiter(), await door.waiter()
    if granted:
        door.gate.leave(first)
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    if not granted:
        door.gate.leave(first)
    assert leaves.cancelled()
    door.gate.leave(await stays)
    assert repr(door.gate) == "<Gate 0 running 0 waiting>"


async def test_who_has_no_time_left_leaves_the_queue() -> None:
    door = Door()
    first = await door.enter()
    door.gate.admission.first_token(0.5, door.clock())
    with pytest.raises(DeadlineUnmeetable, match="no place"):
        await door.enter(seconds=0.5)
    assert repr(door.gate) == "<Gate 1 running 0 waiting>"
    door.gate.leave(first)
