"""Direct: one target after the other, until one answers.

Before the commit a failed attempt is replaced silently. After it, a target with the same weights goes on with the
stream where that is possible, or another model where policy allows it, nothing lost and nothing repeated; else the
stream starts again if the caller accepts that, or ends with an error. COMMITTED delivery asks for whole answers and has
them judged, or gives them record by record; LIVE and PROBED hold the first tokens only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.router.attempts import Attempts
from services.router.facts import Delivery
from services.router.failures import Failures, interrupted
from services.router.leg import Leg
from services.router.overlap import Astray
from services.router.plan import Candidate
from services.router.progress import Progress
from services.router.work import Work
from spillway import v1
from spillway.errors import RequestInvalid, SpillwayError
from spillway.rpc.lane import Lane

from .strategy import by_records, delivered, whole_stream


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
            committed = by_records if work.plan.records else whole_stream
            async with aclosing(committed(self, work)) as given:
                async for event in given:
                    yield event
            return
        failures = Failures(work)
        targets = [candidate.target for candidate in work.plan.taken]
        lane = work.lane or Lane()
        progress = Progress(work.spec, targets, work.plan.limits.continue_on, lane)
        restarts = work.policy.delivery.accepts_restart
        left, before = "", 0
        for candidate in failures.still_worth_trying():
            for leg in progress.legs(candidate.target, restarts=restarts):
                begun = lane.open = False
                relay = self._attempts.relay(work, candidate, spec=leg.spec, lane=lane)
                try:
                    async with aclosing(leg.new(relay)) as events:
                        async for event in events:
                            if not begun:
                                begun = True
                                before = progress.tokens if leg.goes_on else 0
                                if left:
                                    why = failures.last
                                    if leg.overlap is not None:
                                        why += f"; another model goes on: {event.started.model}"
                                    changed = _changed(left, candidate, why, leg, before)
                                    progress.take(changed)
                                    yield changed
                                progress.begin(candidate.target, leg)
                                lane.open = leg.overlap is None  # else somebody here has to read them
                            progress.take(event)
                            if event.route_changed.HasField("resumed_after_tokens"):
                                event.route_changed.resumed_after_tokens = progress.tokens  # a router tells its own
                            elif before and event.HasField("usage") and event.usage.HasField("completion_tokens"):
                                event.usage.completion_tokens += before
                            yield event
                    return
                except Astray:
                    continue
                except SpillwayError as error:
                    if leg.goes_on and not begun and isinstance(error, RequestInvalid):
                        continue  # it takes no such request; what the caller asked is as good as before
                    failures.add(error)
                    if begun or left:
                        goes_on = failures.prefer(progress.weights) or progress.crosses or restarts
                        if not goes_on or not error.elsewhere:
                            raise interrupted(error, progress.sequence, progress.tokens, work) from None
                        left = candidate.target.name if begun else left
                    break
        if left:
            raise interrupted(failures.outcome(), progress.sequence, progress.tokens, work)
        raise failures.outcome()

    def __repr__(self) -> str:
        return "<Direct>"


def _changed(left: str, candidate: Candidate, reason: str, leg: Leg, tokens: int) -> v1.GenerationEvent:
    changed = v1.RouteChanged(from_target=left, to_target=candidate.target.name, reason=reason)
    if leg.goes_on:
        changed.resumed_after_tokens = tokens
    else:
        changed.restarted = True
    return v1.GenerationEvent(route_changed=changed)
