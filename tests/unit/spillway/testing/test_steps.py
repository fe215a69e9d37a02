from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spillway import v1
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.steps import Steps


async def test_all_that_wait_for_a_step_are_woken_in_one_turn() -> None:
    steps = Steps(0.001)
    woken: list[int] = []

    async def waits(number: int) -> None:
        await steps.reach(200)
        woken.append(number)
        await asyncio.sleep(0)
        assert len(woken) == 20

    await asyncio.gather(*map(waits, range(20)))
    assert steps.taken >= 200


async def test_a_step_that_was_taken_is_not_waited_for() -> None:
    steps = Steps(0.001)
    await steps.reach(3)
    with pytest.raises(StopIteration):
        steps.reach(2).send(None)


async def test_who_waits_no_longer_holds_up_nobody() -> None:
    steps = Steps(0.005)
    gone, stays = asyncio.create_task(steps.reach(1)), asyncio.create_task(steps.reach(2))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert gone.cancelled()


async def test_answers_in_steps_have_a_token_a_step_and_a_window_of_whole_steps(
    mesh: Any, call: Any, spec: Any
) -> None:
    engine = FakeEngine(answer=lambda spec: "word " * 9 + "word", steps=Steps(0.002))
    async with serving_engine(engine) as server:
        client = mesh.client(server)
        plain = await client.events(spec(), call())
        merged = await client.events(spec(coalescing=v1.Coalescing(window_ms=10)), call())

    assert sum(event.delta.tokens for event in plain) == 10
    tokens = [event.delta.tokens for event in merged if event.HasField("delta")]
    assert tokens[0] >= 1  # the first is not held
    assert all(each >= 5 for each in tokens[2:-1])  # the second comes when the next window of all streams ends
    assert sum(tokens) == 10
