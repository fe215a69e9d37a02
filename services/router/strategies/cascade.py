"""Cascade: the first answer that the validator accepts and that is confident enough; else the next target.

The last target's answer needs no confidence. When the targets after a hesitant answer fail, that answer is given after
all, and its route reason says so. An answer whose confidence is unknown is kept if the validator accepted it: something
has vouched for it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from services.router.attempts import Answer, Attempts
from services.router.confidence import confidence, with_logprobs, without_logprobs
from services.router.failures import Failures
from services.router.work import Work
from spillway import v1

from .strategy import delivered, second_best, whole_stream


class Cascade:
    """Goes from the cheap to the strong."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def generate(self, work: Work) -> v1.GenerateResponse:
        failures = Failures(work)
        threshold = work.plan.limits.confidence_threshold
        hesitant: Answer | None = None

        def doubt(response: v1.GenerateResponse, verdict: v1.Verdict | None) -> bool:
            found = confidence(response)
            return found < threshold if found is not None else verdict is None

        for candidate in failures.still_worth_trying():
            last = candidate.target.called == work.plan.taken[-1].target.called
            telling = not last and "logprobs" in candidate.target.capabilities
            spec = with_logprobs(work.spec) if telling else work.spec
            answer = await self._attempts.answer(work, candidate, failures, spec=spec, doubt=None if last else doubt)
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
