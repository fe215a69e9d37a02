"""Hedge: when the first target's first token is late, the next one starts too; the first to speak answers.

At most two run at once. The loser is cancelled, so that as little as possible is paid twice, and accounted for as
cancelled. A target that fails is replaced by the next at once. Where the retry budget has no hedge left, the first
target is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from services.router.attempts import Attempts
from services.router.facts import Delivery
from services.router.failures import Failures, interrupted
from services.router.plan import Candidate
from services.router.work import Work
from spillway import v1
from spillway.errors import SpillwayError
from spillway.generation import tokens_in

from .strategy import delivered, whole_stream

AT_ONCE = 2
T = TypeVar("T")
Events = AsyncGenerator[v1.GenerationEvent]


class Hedge:
    """Races the next target against the lateness of the first."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def generate(self, work: Work) -> v1.GenerateResponse:
        failures = Failures(work)

        async def whole(candidate: Candidate) -> v1.GenerateResponse | None:
            answer = await self._attempts.answer(work, candidate, failures)
            return answer.response if answer is not None else None

        response = await first_of(work, failures, whole, self._may_hedge(work))
        if response is None:
            raise failures.outcome()
        return delivered(work, response)

    async def stream(self, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
        if work.plan.delivery is Delivery.COMMITTED:
            async for event in whole_stream(self, work):
                yield event
            return
        failures = Failures(work)
        relays: list[Events] = []

        async def begun(candidate: Candidate) -> tuple[v1.GenerationEvent, Events] | None:
            relay = self._attempts.relay(work, candidate)
            relays.append(relay)
            try:
                return await anext(relay), relay
            except SpillwayError as error:
                failures.add(error)
                return None

        sequence = tokens = 0
        try:
            winner = await first_of(work, failures, begun, self._may_hedge(work))
            if winner is None:
                raise failures.outcome()
            event, relay = winner
            for loser in relays:
                if loser is not relay:
                    await loser.aclose()
            yield event  # its sequence is 0
            async for event in relay:
                sequence += 1
                event.sequence = sequence
                tokens += tokens_in(event)
                yield event
        except SpillwayError as error:
            raise (interrupted(error, sequence + 1, tokens, work) if sequence else error) from None
        finally:
            for relay in relays:
                await relay.aclose()

    def _may_hedge(self, work: Work) -> Callable[[], bool]:
        return lambda: self._attempts.may_hedge(work)

    def __repr__(self) -> str:
        return "<Hedge>"


async def first_of(
    work: Work,
    failures: Failures,
    start: Callable[[Candidate], Coroutine[Any, Any, T | None]],
    may_hedge: Callable[[], bool],
) -> T | None:
    """Return what the first target to succeed gives, None if none does. Nothing else runs when this returns."""
    waiting = failures.still_worth_trying()
    running: set[asyncio.Task[T | None]] = set()
    late = False
    try:
        while True:
            free = len(running) < AT_ONCE and not failures.exhausted and (not late or may_hedge())
            candidate = next(waiting, None) if free else None
            if candidate is not None:
                running.add(asyncio.create_task(start(candidate)))
            if not running:
                return None
            late_s = work.plan.limits.hedge_after_s if candidate is not None and len(running) < AT_ONCE else None
            done, running = await asyncio.wait(running, timeout=late_s, return_when=asyncio.FIRST_COMPLETED)
            late = not done
            for task in done:
                found = task.result()
                if found is not None:
                    return found
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
