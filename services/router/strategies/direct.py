"""Direct: one target after the other, until one answers.

Before the commit a failed attempt is replaced silently. After it, a target with the same weights goes on with the
stream where that is possible, nothing lost and nothing repeated; else the stream starts again if the caller accepts
that, or ends with an error. COMMITTED delivery asks for whole answers and has them judged; LIVE and PROBED hold the
first tokens only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.router.attempts import Attempts
from services.router.facts import Delivery
from services.router.failures import Failures, interrupted
from services.router.plan import Candidate
from services.router.progress import Progress
from services.router.work import Work
from spillway import v1
from spillway.errors import SpillwayError

from .strategy import delivered, whole_stream


class Direct:
    """Tries the plan's targets in order."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def generate(self, work: Work) -> v1.GenerateResponse:
        failures = Failures(work)
        for candidate in failures.still_worth_trying():
            answer = await self._attempts.answer(work, candidate, failures)
            if answer is not None:
                return delivered(work, answer.response)
        raise failures.outcome()

    async def stream(self, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
        if work.plan.delivery is Delivery.COMMITTED:
            async for event in whole_stream(self, work):
                yield event
            return
        failures = Failures(work)
        progress = Progress(work.spec, [candidate.target for candidate in work.plan.taken])
        sequence, left, before = 0, "", 0
        for candidate in failures.still_worth_trying():
            resumes = bool(left and progress.weights and candidate.target.weights == progress.weights)
            begun = False
            try:
                spec = progress.rest() if resumes else work.spec
                async with aclosing(self._attempts.relay(work, candidate, spec=spec)) as events:
                    async for event in events:
                        if not begun:
                            begun = True
                            before = progress.tokens if resumes else 0
                            if left:
                                yield _changed(sequence, left, candidate, failures.last, resumes, before)
                                sequence += 1
                            if not resumes:
                                progress.begin(candidate.target)
                        event.sequence = sequence
                        sequence += 1
                        if event.HasField("delta"):
                            progress.take(event.delta)
                        elif before and event.HasField("usage"):
                            event.usage.completion_tokens += before
                        yield event
                return
            except SpillwayError as error:
                failures.add(error)
                if begun or left:
                    goes_on = failures.prefer(progress.weights) or work.policy.delivery.accepts_restart
                    if not goes_on or not error.elsewhere:
                        raise interrupted(error, sequence, work) from None
                    left = candidate.target.name if begun else left
        if left:
            raise interrupted(failures.outcome(), sequence, work)
        raise failures.outcome()

    def __repr__(self) -> str:
        return "<Direct>"


def _changed(
    sequence: int, left: str, candidate: Candidate, reason: str, resumes: bool, tokens: int
) -> v1.GenerationEvent:
    changed = v1.RouteChanged(from_target=left, to_target=candidate.target.name, reason=reason)
    if resumes:
        changed.resumed_after_tokens = tokens
    else:
        changed.restarted = True
    return v1.GenerationEvent(sequence=sequence, route_changed=changed)
