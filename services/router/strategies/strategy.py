"""A strategy: one way to carry out a plan. Each is a file beside this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Protocol

from services.router.attempts import Answer
from services.router.failures import Failures, interrupted
from services.router.release import Release
from services.router.work import Work
from spillway import v1
from spillway.errors import OutputInvalid, SpillwayError
from spillway.generation import tokens_in


class Strategy(Protocol):
    """Carries out plans. All raise SpillwayError: what `Failures.outcome` says where nothing answered."""

    async def generate(self, work: Work) -> v1.GenerateResponse:
        """Return the answer."""
        ...

    def stream(self, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield the events of the answer, in the delivery mode of the plan."""
        ...


def delivered(work: Work, response: v1.GenerateResponse) -> v1.GenerateResponse:
    """The answer that the caller gets, with the account of all that was done for it."""
    work.journal.complete(response.usage)
    return response


def second_best(work: Work, answer: Answer | None, failures: Failures, why: str) -> v1.GenerateResponse:
    """The answer there is, saying `why` it is degraded. Raises what `failures` say where there is none."""
    if answer is None:
        raise failures.outcome()
    started = answer.response.started
    started.route_reason = f"degraded: {why}; {started.route_reason}"
    return delivered(work, answer.response)


def unfolded(response: v1.GenerateResponse) -> Iterator[v1.GenerationEvent]:
    """The events of a whole answer."""
    yield v1.GenerationEvent(sequence=0, started=response.started)
    sequence = 1
    for choice in response.choices:
        yield v1.GenerationEvent(sequence=sequence, delta=choice.content)
        sequence += 1
    finishes = [choice.finish for choice in response.choices]
    yield v1.GenerationEvent(sequence=sequence, finished=v1.Finished(choices=finishes))
    yield v1.GenerationEvent(sequence=sequence + 1, usage=response.usage)


async def whole_stream(strategy: Strategy, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
    """The stream of a strategy that has nothing to show before the answer is whole."""
    for event in unfolded(await strategy.generate(work)):
        yield event


async def by_records(strategy: Strategy, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
    """The stream of a whole answer, the records of which are given as they are accepted; the first one commits."""
    release = Release()
    making = asyncio.create_task(strategy.generate(replace(work, release=release)), name="records")
    making.add_done_callback(lambda task: release.end())
    sequence = tokens = 0
    try:
        async for event in _given(release, making):
            event.sequence = sequence
            sequence += 1
            tokens += tokens_in(event)
            yield event
    except SpillwayError as error:
        whole = not sequence or isinstance(error, OutputInvalid)
        raise (error if whole else interrupted(error, sequence, tokens, work)) from None
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)


async def _given(release: Release, making: asyncio.Task[v1.GenerateResponse]) -> AsyncGenerator[v1.GenerationEvent]:
    async for event in release.events():
        yield event
    for event in release.rest(unfolded(await making)):
        yield event
