"""When the breakers of all that may answer are open: try, wait or fail, as the policy says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from services.router.admission_settings import AdmissionSettings
from services.router.app import build
from services.router.breakers import Breakers
from services.router.policy_settings import PolicySettings, TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.errors import AllTargetsFailed, BreakerOpen, ContextLengthExceeded, TargetDown
from spillway.generation import fold
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.clock import HandClock
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Refuse, Script
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import CAPABILITIES, Mesh, text
from tests.integration.router.test_context import conversation

DOWN = Refuse(TargetDown("gone"))
OPENS_WITHIN_S = 27.5
"""25 s and the jitter."""

WINDOW, MAX_WAITING = 2048, 5


@dataclass
class Sick:
    """A router whose one target has just failed three times in a row."""

    mesh: Mesh
    engine: FakeEngine
    breakers: Breakers
    clock: HandClock

    def ask(self, deadline_s: float = 60.0, spec: v1.GenerationSpec | None = None) -> asyncio.Task[v1.GenerateResponse]:
        return asyncio.create_task(self.mesh.generate(spec or text(), deadline_s=deadline_s))

    async def waits(self, count: int) -> None:
        await eventually(lambda: self.breakers.waiting == count)


@asynccontextmanager
async def sick(
    when_all_open: Any, *, then: tuple[Any, ...] = (), floor_s: float = 1.0, context: Any = "larger"
) -> AsyncIterator[Sick]:
    async with AsyncExitStack() as stack:
        engine, clock = FakeEngine(faults=Script(DOWN, DOWN, DOWN, *then)), HandClock()
        server = await stack.enter_async_context(serving_engine(engine))
        target = TargetSettings(
            name="local",
            kind="local",
            address=server.address,
            capabilities=CAPABILITIES,
            first_token_floor_s=floor_s,
            context_window=WINDOW,
        )
        settings = RouterSettings(
            server=LOOPBACK,
            targets=(target,),
            policy=PolicySettings(when_all_open=when_all_open, max_retries_per_target=0, context=context),
            admission=AdmissionSettings(max_waiting=MAX_WAITING),
            breakers={"poll_s": 0.01},  # what the hand clock lets pass is seen at once
        )
        app = await stack.enter_async_context(build(settings, keep=lambda attempt, call: None, clock=clock))
        remote = Remote(app.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        mesh = Mesh(engine, engine, app.server.address, remote, [])
        for _ in range(3):
            with pytest.raises(AllTargetsFailed):
                await mesh.generate(text())
        assert app.router.breakers.against("local")
        yield Sick(mesh, engine, app.router.breakers, clock)


async def test_fail_says_at_once_when_to_come_back_and_nothing_is_asked() -> None:
    async with sick("fail") as found:
        with pytest.raises(BreakerOpen, match="its breaker is open") as refused:
            await found.mesh.generate(text())
        assert refused.value.retry_after_s == pytest.approx(found.breakers.against("local")[""].left_s, abs=0.01)
        assert len(found.engine.seen) == 3


async def test_fail_lets_a_probe_through_when_it_is_due() -> None:
    async with sick("fail") as found:
        found.clock.advance(OPENS_WITHIN_S)
        assert (await found.mesh.generate(text())).choices
        assert (await found.mesh.generate(text())).choices  # it is recovering, and there is nothing else


async def test_try_asks_all_the_same() -> None:
    async with sick("try") as found:
        assert (await found.mesh.generate(text())).choices


@pytest.mark.parametrize("streamed", [False, True])
async def test_wait_waits_until_the_breaker_lets_a_probe_through(streamed: bool) -> None:
    async with sick("wait") as found:
        asked = asyncio.create_task(fold(found.mesh.stream(text(), deadline_s=60.0))) if streamed else found.ask()
        await found.waits(1)
        assert len(found.engine.seen) == 3
        found.clock.advance(OPENS_WITHIN_S)
        assert (await asked).choices


async def test_those_that_wait_do_not_all_go_to_a_target_that_is_still_sick() -> None:
    async with sick("wait", then=(DOWN,)) as found:
        asked = [found.ask(300.0) for _ in range(5)]
        await found.waits(5)
        found.clock.advance(OPENS_WITHIN_S)
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert [type(task.exception()) for task in done] == [AllTargetsFailed]
        await found.waits(4)
        assert len(found.engine.seen) == 4
        found.clock.advance(2 * OPENS_WITHIN_S)
        assert all(answer.choices for answer in await asyncio.gather(*waiting))


async def test_a_reset_ends_the_wait() -> None:
    async with sick("wait") as found:
        asked = found.ask()
        await found.waits(1)
        found.breakers.reset("local")
        assert (await asked).choices


async def test_the_wait_ends_while_there_is_still_time_for_an_answer_elsewhere() -> None:
    async with sick("wait", floor_s=9.9) as found:
        asked = found.ask(10.0)
        await found.waits(1)
        found.clock.advance(0.2)
        with pytest.raises(BreakerOpen) as refused:
            await asked
        assert refused.value.retry_after_s is not None
        assert len(found.engine.seen) == 3


async def test_no_more_wait_for_a_breaker_than_may_wait_for_a_place() -> None:
    async with sick("wait") as found:
        asked = [found.ask() for _ in range(MAX_WAITING)]
        await found.waits(MAX_WAITING)
        with pytest.raises(BreakerOpen) as refused:
            await found.mesh.generate(text())
        assert refused.value.retry_after_s is not None
        found.breakers.reset("local")
        assert all(answer.choices for answer in await asyncio.gather(*asked))


async def test_a_caller_that_leaves_waits_no_longer() -> None:
    async with sick("wait") as found:
        asked = found.ask()
        await found.waits(1)
        asked.cancel()
        await found.waits(0)


@pytest.mark.parametrize("context", ["slide", "summarize"])
async def test_a_prompt_that_would_be_made_to_fit_is_no_too_long_one_while_the_breaker_is_open(context: str) -> None:
    async with sick("fail", context=context) as found:
        with pytest.raises(BreakerOpen, match="its breaker is open") as refused:
            await found.mesh.generate(conversation())
        assert refused.value.retry_after_s == pytest.approx(found.breakers.against("local")[""].left_s, abs=0.01)
    async with sick("wait", context=context) as found:
        asked = found.ask(spec=conversation())
        await found.waits(1)
        found.clock.advance(OPENS_WITHIN_S)
        assert (await asked).usage.context.tokens_after < WINDOW


async def test_a_prompt_that_nothing_would_make_fit_does_not_wait_for_a_breaker() -> None:
    async with sick("wait", context="refuse") as found:
        with pytest.raises(ContextLengthExceeded):
            await found.mesh.generate(conversation())
