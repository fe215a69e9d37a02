"""Draft and refine: the first target drafts, the next one improves the draft; its answer is the caller's.

When the draft fails, the plan goes on as Direct would. When the refinement fails, the draft is given and says so.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.router.attempts import Attempts
from services.router.facts import Delivery
from services.router.failures import Failures, interrupted
from services.router.work import Work
from spillway import v1
from spillway.errors import SpillwayError
from spillway.generation import tokens_in

from .strategy import delivered, second_best, unfolded, whole_stream

INSTRUCTION = (
    "Your last message was a draft. Improve it: correct what is wrong or missing and keep what is right. "
    "Answer with the improved text alone."
)
UNREFINED = "a draft that nothing refined"


class DraftRefine:
    """Has a cheap target draft and a strong one improve. Its plans have two targets at least."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def generate(self, work: Work) -> v1.GenerateResponse:
        failures = Failures(work)
        candidates = failures.still_worth_trying()
        drafter = next(candidates)
        draft = await self._attempts.answer(work, drafter, failures)
        if draft is not None:
            failures.pass_over(drafter.target)
        spec = work.spec if draft is None else refinement(work.spec, draft.response)
        for candidate in candidates:
            answer = await self._attempts.answer(work, candidate, failures, spec=spec)
            if answer is not None:
                return delivered(work, answer.response)
        return second_best(work, draft, failures, UNREFINED)

    async def stream(self, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
        if work.plan.delivery is Delivery.COMMITTED:
            async for event in whole_stream(self, work):
                yield event
            return
        failures = Failures(work)
        candidates = failures.still_worth_trying()
        drafter = next(candidates)
        draft = await self._attempts.answer(work, drafter, failures)
        if draft is not None:
            failures.pass_over(drafter.target)
        spec = work.spec if draft is None else refinement(work.spec, draft.response)
        sequence = tokens = 0
        for candidate in candidates:
            try:
                async with aclosing(self._attempts.relay(work, candidate, spec=spec)) as events:
                    async for event in events:
                        event.sequence = sequence
                        sequence += 1
                        tokens += tokens_in(event)
                        yield event
                return
            except SpillwayError as error:
                if sequence:
                    raise interrupted(error, sequence, tokens, work) from None
                failures.add(error)
        for event in unfolded(second_best(work, draft, failures, UNREFINED)):
            yield event

    def __repr__(self) -> str:
        return "<DraftRefine>"


def refinement(spec: v1.GenerationSpec, draft: v1.GenerateResponse) -> v1.GenerationSpec:
    """The request again, with a draft of its answer and what to do about it."""
    asked = v1.GenerationSpec()
    asked.CopyFrom(spec)
    asked.chat.messages.add(role=v1.ROLE_ASSISTANT, parts=[v1.Part(text=draft.choices[0].content.text)])
    asked.chat.messages.add(role=v1.ROLE_USER, parts=[v1.Part(text=INSTRUCTION)])
    return asked
