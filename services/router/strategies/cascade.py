"""Cascade: the first answer that the validator accepts and that is confident enough; else the next target.

The last target's answer needs no confidence. When the targets after a hesitant answer fail, that answer is given after
all, and its route reason says so.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from services.router.attempts import Answer, Attempts
from services.router.confidence import without_logprobs
from services.router.failures import Failures
from services.router.vouching import Vouching
from services.router.work import Work
from spillway import v1

from .strategy import delivered, second_best, whole_stream


class Cascade:
    """Goes from the cheap to the strong."""

    def __init__(self, attempts: Attempts, vouching: Vouching) -> None:
        self._attempts = attempts
        self._vouching = vouching

    async def generate(self, work: Work) -> v1.GenerateResponse:
        failures = Failures(work)
        hesitant: Answer | None = None
        for candidate in failures.still_worth_trying():
            if candidate.target.called == work.plan.taken[-1].target.called:
                answer = await self._attempts.answer(work, candidate, failures)
            else:
                vouch = partial(self._vouching.vouch, work, candidate)
                spec = self._vouching.spec(work, candidate)
                answer = await self._attempts.answer(work, candidate, failures, spec=spec, vouch=vouch)
            if answer is None:
                continue
            if not work.spec.HasField("logprobs"):
                without_logprobs(answer.response)
            if not answer.doubted:
                return delivered(work, answer.response)
            hesitant = answer
            failures.pass_over(candidate.target)
        return second_best(work, hesitant, failures, "not confident, and nothing better answered")

    def stream(self, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
        return whole_stream(self, work)

    def __repr__(self) -> str:
        return "<Cascade>"
