"""Attempts: what every strategy is made of. One call to one target, whole and judged, or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from spillway import v1
from spillway.errors import BreakerOpen, CostCap, SpillwayError, TargetBusy
from spillway.logs import get_logger
from spillway.record import record
from spillway.rpc.lane import Lane

from .breakers import Breakers
from .chain import wishes
from .facts import Delivery, Validation
from .failures import Failures, fleeting
from .fleet import Fleet
from .following import Following, follows
from .journal import Attempt
from .judge import Judge, accepted, bound, correction, first_try, standard, verdict_on
from .loads import Loads
from .observation import kind_of_spec
from .patience import idle_s, probe_tokens, share_s, silence_s
from .plan import Candidate
from .reading import tell_data_policy
from .redactor import Redactor
from .restoring import restored, restoring
from .retry_budget import RetryBudget
from .route_reason import reason
from .spend import Hold, Spend
from .work import Planned, Work

log = get_logger(__name__)

FOLLOW_WINDOW_MS = 40
"""Deltas of an answer that is judged as it comes are merged for so long: nobody reads them."""

Made = TypeVar("Made")


@record
class Answer:
    """A whole answer that came, signed. `verdict` is None where nothing judged it."""

    response: v1.GenerateResponse
    verdict: v1.Verdict | None
    doubted: bool = False

    @property
    def refused(self) -> bool:
        """The validator does not accept it."""
        return self.verdict is not None and not accepted(self.verdict)


Vouch = Callable[[Attempt, Answer], Awaitable[Answer]]
"""Says how sure one may be of the answer of an attempt that is not settled; returns it, or another in its place."""


class Attempts:
    """Makes attempts for the router named `router`; each is stamped, accounted and bounded in time.

    A target that fails in a fleeting way is asked again, as often as the policy, its breaker and the budget allow.
    """

    def __init__(
        self,
        router: str,
        fleet: Fleet,
        judge: Judge | None,
        breakers: Breakers,
        budget: RetryBudget,
        loads: Loads,
        spend: Spend,
        redactor: Redactor,
        follow_from_tokens: int | None = None,
    ) -> None:
        self._follow_from_tokens = follow_from_tokens
        self._spend = spend
        self._redactor = redactor
        self._loads = loads
        self._router = router
        self._fleet = fleet
        self._judge = judge
        self._breakers = breakers
        self._budget = budget

    async def answer(
        self,
        work: Work,
        candidate: Candidate,
        failures: Failures,
        *,
        spec: v1.GenerationSpec | None = None,
        vouch: Vouch | None = None,
    ) -> Answer | None:
        """Ask one target until it gives an answer that is not refused, as often as the policy allows; else None.

        What went wrong is in `failures`.
        """
        spec = _first(work, spec or work.spec)
        for _ in range(1 + work.plan.limits.constrained_retries):
            try:
                sent = await self._redacted(work, candidate, spec)
                asked = partial(self._asked, work, candidate, spec=sent, vouch=vouch)
                answer = await self.once(work, candidate, asked)
            except SpillwayError as error:
                failures.add(error)
                return None
            if not answer.refused:
                return answer
            assert answer.verdict is not None
            failures.refuse(answer.verdict, candidate.target)
            if answer.verdict.decision != v1.VERDICT_DECISION_RETRY or work.journal.committed:
                return None
            spec = correction(spec, answer.verdict)
        return None

    async def aside(self, work: Work, candidate: Candidate, spec: v1.GenerationSpec) -> Answer:
        """Ask one target, once, for what helps to judge another attempt's answer. Raises SpillwayError."""
        side = replace(work, aside=True)
        sent = await self._redacted(side, candidate, _first(work, spec))
        return await self._asked(side, candidate, await self._begin(side, candidate), spec=sent)

    async def once(self, work: Planned, candidate: Candidate, ask: Callable[[Attempt], Awaitable[Made]]) -> Made:
        """Have `ask` make an attempt at one target, and another where it fails in a fleeting way.

        `ask` settles the attempt that it is given. Raises SpillwayError.
        """
        attempt = await self._begin(work, candidate)
        while True:
            try:
                return await ask(attempt)
            except SpillwayError:
                again = await self._again(work, candidate, attempt)
                if again is None:
                    raise
                attempt = again

    async def _asked(
        self, work: Work, candidate: Candidate, attempt: Attempt, *, spec: v1.GenerationSpec, vouch: Vouch | None = None
    ) -> Answer:
        """Carry out `attempt` and have its answer judged. Raises SpillwayError."""
        target = candidate.target
        wished = wishes(work.policy, work.plan, target)
        verdicts: list[v1.Verdict] | None = None
        try:
            spec = await self._redacted(work, candidate, spec)  # it is already, unless somebody forgot
        except BaseException as error:
            failed = error if isinstance(error, SpillwayError) else None
            outcome = v1.ATTEMPT_OUTCOME_CANCELLED if failed is None else v1.ATTEMPT_OUTCOME_FAILED
            work.journal.settle(attempt, outcome, error=failed)
            raise
        following = self._judge if follows(work, self._follow_from_tokens) else None
        if following is not None:
            response, verdicts = await self._followed(work, candidate, attempt, following, spec=spec)
        else:
            request = v1.GenerateRequest(spec=spec, stamp=self.stamp(work, attempt), policy=wished)
            request.spec.model = target.model
            response = await self._fleet.client(target).generate(
                attempt, request, work.journal.onward(attempt), work.journal, silence_s(work, candidate)
            )
        outcome = v1.ATTEMPT_OUTCOME_CANCELLED
        try:
            if following is None and work.plan.redacts(target):
                restoring(work, target, spec).whole(response)
            verdict = await verdict_on(response, work, self._judge, verdicts)
            # What is refused of a sample is not counted against its target: the sampling is ours.
            attempt.kind = kind_of(work) if verdict is not None and not attempt.aside else ""
            answer = Answer(response, verdict)
            if vouch is not None and not answer.refused:
                work.journal.leave(attempt)
                self._loads.give_back(target.name)
                answer = await vouch(attempt, answer)
            if answer.refused:
                outcome = v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR
            elif answer.doubted:
                outcome = v1.ATTEMPT_OUTCOME_NOT_CONFIDENT
            else:
                outcome = v1.ATTEMPT_OUTCOME_ANSWERED
        except SpillwayError:
            outcome = v1.ATTEMPT_OUTCOME_FAILED
            raise
        finally:
            work.journal.settle(attempt, outcome, model=response.started.model, usage=response.usage)
        if answer.verdict is not None:
            answer.response.usage.verdict.CopyFrom(answer.verdict)
        if not attempt.aside:
            self._sign(answer.response.started, work, candidate)
        return answer

    async def _followed(
        self, work: Work, candidate: Candidate, attempt: Attempt, judge: Judge, *, spec: v1.GenerationSpec
    ) -> tuple[v1.GenerateResponse, list[v1.Verdict] | None]:
        """Return the target's answer and its verdicts; what is doomed ends where that is known.

        Verdicts are None where the validator went away.
        """
        target, journal, plan = candidate.target, work.journal, work.plan
        wished = wishes(work.policy, work.plan, target)
        request = v1.StreamGenerateRequest(spec=spec, stamp=self.stamp(work, attempt), policy=wished)
        request.spec.model = target.model
        request.spec.coalescing.window_ms = max(FOLLOW_WINDOW_MS, spec.coalescing.window_ms)
        limits = silence_s(work, candidate), idle_s(work, candidate)
        following: Following | None = None
        if work.release is not None:
            work.release.open(attempt, partial(self._sign, work=work, candidate=candidate))
        events = self._fleet.client(target).stream(
            attempt, request, journal.onward(attempt), journal, *limits, judged=True
        )
        wanted = standard(work.spec, plan)
        try:
            events = restored(events, work, target, spec)
            async with (
                judge.follow(wanted, work.call, plan.judgements, work.release) as following,
                aclosing(events),
            ):
                response, verdicts = await following.whole(events)
        except BaseException:
            if not attempt.settled:
                usage = following.usage if following is not None else None
                journal.settle(attempt, v1.ATTEMPT_OUTCOME_CANCELLED, usage=usage)
            raise
        if following.stopped and not response.usage.HasField("prompt_tokens"):  # they are paid for all the same
            response.usage.prompt_tokens = work.plan.facts.prompt_tokens
        return response, verdicts

    async def relay(
        self, work: Work, candidate: Candidate, *, spec: v1.GenerationSpec | None = None, lane: Lane | None = None
    ) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield one target's events, from the first token on, or in PROBED delivery from where the probe ends.

        Deltas may go by `lane` instead, where they leave as they came.

        A probe ends with its last token, or with the first that comes after the target's share of the deadline. Until
        the first event is out a target that fails in a fleeting way is asked again. Raises SpillwayError.
        """
        target, spec = candidate.target, await self._redacted(work, candidate, spec or work.spec)
        wished = wishes(work.policy, work.plan, target)
        attempt = await self._begin(work, candidate)
        while True:
            request = v1.StreamGenerateRequest(spec=spec, stamp=self.stamp(work, attempt), policy=wished)
            request.spec.model = target.model
            probed = work.plan.delivery is Delivery.PROBED
            hold = probe_tokens(work) if probed else 1
            probe_ends = work.call.deadline.left() - share_s(work, candidate) if probed else 0.0  # as seconds left
            held: list[v1.GenerationEvent] = []
            begun, last = False, None
            events = self._fleet.client(target).stream(
                attempt,
                request,
                work.journal.onward(attempt),
                work.journal,
                silence_s(work, candidate),
                idle_s(work, candidate),
                lane=None if work.plan.redacts(target) else lane,
            )
            events = restored(events, work, target, spec)
            try:
                async with aclosing(events):
                    async for event in events:
                        kind = event.WhichOneof("event")
                        if kind == "delta":
                            if begun:
                                yield event
                                continue
                            held.append(event)
                            over = probed and work.call.deadline.left() <= probe_ends
                            hold = 0 if over else max(0, hold - (event.delta.tokens or 1))
                        elif kind == "started":
                            self._sign(event.started, work, candidate)
                            held.append(event)
                        elif kind == "usage":
                            last = event
                            continue
                        elif kind == "finished":
                            held.append(event)
                            hold = 0
                        elif kind == "route_changed" and target.router:
                            if begun:
                                yield event
                            else:
                                held.append(event)
                        else:
                            continue  # heartbeats of a target are its router's, not the caller's
                        if not hold:
                            begun = True
                            for waiting in held:
                                yield waiting
                            held.clear()
            except SpillwayError:
                again = None if begun else await self._again(work, candidate, attempt)
                if again is None:
                    raise
                attempt = again
                continue
            if last is not None:  # the attempt is settled now, so the journal is whole
                work.journal.complete(last.usage)
                yield last
            return

    async def _redacted(self, work: Work, candidate: Candidate, spec: v1.GenerationSpec) -> v1.GenerationSpec:
        """Return `spec` as `candidate` may see it: every spec comes by here. Raises PolicyBlocked."""
        if not work.plan.redacts(candidate.target):
            return spec
        return await self._redactor.redacted(spec, work.plan.redaction.kinds, work.vault, work.call)

    def may_hedge(self, work: Work) -> bool:
        """Whether the budget has a hedge for `work`; if so it is taken."""
        return self._budget.take(work.journal.clock())

    async def _begin(self, work: Planned, candidate: Candidate) -> Attempt:
        """Open an attempt. Raises BreakerOpen, TargetBusy or CostCap where the target may not be tried now.

        The place that it has at the target, and what is held of the tenant's budget, end when it is settled.
        """
        name, journal = candidate.target.name, work.journal
        journal.admit(aside=work.aside)
        may_try = work.plan.when_all_open == "try"
        only = may_try and candidate is work.plan.taken[-1] and not journal.attempts
        others = () if work.aside else (each.target for each in work.plan.taken)  # they have no say in it
        await self._loads.take(candidate.target, others, work.call.deadline)
        hold = None
        try:
            hold = await self._hold(work, candidate)
            probe = await self._breakers.may_probe(name, kind_of(work), advice=work.plan.advice or only)
        except BaseException:
            self._loads.give_back(name)
            if hold is not None:
                self._spend.settle(hold, 0)
            raise
        attempt = journal.begin(candidate.target, probe, hold, aside=work.aside)
        await journal.intend(attempt)
        return attempt

    async def _hold(self, work: Planned, candidate: Candidate) -> Hold | None:
        """Set aside what an attempt may cost, where the tenant has a budget; raises CostCap where it does not fit."""
        budget, cost = work.plan.budget, candidate.estimated_cost_nano_usd
        if budget is None or not budget.counts(candidate.target, cost):
            return None
        try:
            return await self._spend.hold(work.call.caller.tenant, budget, cost, work.call.deadline)
        except CostCap as error:
            error.elsewhere = not budget.refuse
            raise

    async def _again(self, work: Planned, candidate: Candidate, failed: Attempt) -> Attempt | None:
        """Open another attempt at the target that `failed`; None where that is not worth it or not allowed."""
        journal = work.journal
        failures = sum(attempt.target is failed.target for attempt in journal.attempts if attempt.error is not None)
        if (
            failed.committed
            or not fleeting(failed)
            or failures > work.plan.limits.max_retries_per_target
            or work.call.deadline.passed
        ):
            return None
        if journal.attempts_left <= 0:
            return None
        if not self._budget.take(journal.clock()):
            log.info("retry.over_budget", target=failed.target.name, budget=repr(self._budget))
            return None
        try:
            return await self._begin(work, candidate)
        except (BreakerOpen, CostCap, TargetBusy):
            return None  # what the target said is the better answer

    def stamp(self, work: Planned, attempt: Attempt) -> v1.PolicyStamp:
        """What was decided, as every target is told."""
        return v1.PolicyStamp(
            router=self._router,
            policy_revision=work.plan.policy_revision,
            tenant=work.call.caller.tenant,
            data_policy=tell_data_policy(work.plan.data_policy_at(attempt.target)),
            target=attempt.target.name,
            attempt=attempt.number,
            redacted=work.vault.kinds if work.plan.redacts(attempt.target) else (),
        )

    def _sign(self, started: v1.Started, work: Work, candidate: Candidate) -> None:
        started.request_id = work.call.request_id
        started.target = candidate.target.name
        started.route_reason = reason(work, candidate, started.route_reason)

    def __repr__(self) -> str:
        return f"<Attempts of {self._router} over {self._fleet!r}>"


def _first(work: Work, spec: v1.GenerationSpec) -> v1.GenerationSpec:
    """Return `spec` as a target is asked first."""
    spec = bound(spec, work.plan)
    return spec if work.plan.validation is Validation.OFF else first_try(spec)


def kind_of(work: Planned) -> str:
    """What the quality of an answer to `work` is counted by."""
    return kind_of_spec(work.plan.facts.task, work.spec, work.plan.judgements)
