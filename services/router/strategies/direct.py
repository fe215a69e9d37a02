"""Direct: one target after the other, until one answers.

Before the commit a failed attempt is replaced silently; after it, the stream goes on or ends with an error. COMMITTED
delivery asks for whole answers and has them judged; LIVE and PROBED hold the first tokens only.
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

from .strategy import whole_stream


class Direct:
    """Tries the plan's targets in order."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def generate(self, work: Work) -> v1.GenerateResponse:
        failures = Failures(work)
        for candidate in failures.still_worth_trying():
            answer = await self._attempts.answer(work, candidate, failures)
            if answer is not None:
                work.journal.complete(answer.response.usage)
                return answer.response
        raise failures.outcome()

    async def stream(self, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
        if work.plan.delivery is Delivery.COMMITTED:
            async for event in whole_stream(self, work):
                yield event
            return
        failures = Failures(work)
        sequence, left = 0, ""
        for candidate in failures.still_worth_trying():
            committed = False
            try:
                async with aclosing(self._attempts.relay(work, candidate)) as events:
                    async for event in events:
                        if not committed:
                            committed = True
                            if left:
                                changed = v1.RouteChanged(
                                    from_target=left,
                                    to_target=candidate.target.name,
                                    reason=failures.last,
                                    restarted=True,
                                )
                                yield v1.GenerationEvent(sequence=sequence, route_changed=changed)
                                sequence += 1
                        event.sequence = sequence
                        sequence += 1
                        yield event
                return
            except SpillwayError as error:
                if committed or left:
                    if not work.policy.delivery.accepts_restart or not error.elsewhere:
                        raise interrupted(error, sequence, work) from None
                    left = candidate.target.name if committed else left
                failures.add(error)
        if left:
            raise interrupted(failures.outcome(), sequence, work)
        raise failures.outcome()

    def __repr__(self) -> str:
        return "<Direct>"
