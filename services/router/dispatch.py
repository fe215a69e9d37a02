"""Dispatch: a plan carried out, target after target, until an answer is the caller's.

Before the commit a failed attempt is replaced silently; after it, the stream goes on or ends with an error. COMMITTED
delivery asks for whole answers and has them judged; LIVE and PROBED hold the first tokens only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from spillway import v1
from spillway.errors import (
    AllTargetsFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    OutputInvalid,
    SpillwayError,
    StreamInterrupted,
    ValidatorUnavailable,
)
from spillway.logs import get_logger
from spillway.rpc.call import Call

from .facts import Delivery, Validation
from .fleet import Fleet
from .journal import Journal
from .judge import Judge, accepted, correction, worst
from .plan import Candidate, Plan
from .reading import tell_data_policy

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """A request with the plan made for it."""

    spec: v1.GenerationSpec
    policy: v1.RoutingPolicy
    plan: Plan
    call: Call
    journal: Journal


class Dispatch:
    """Carries out plans over the targets it is given."""

    def __init__(self, router: str, fleet: Fleet, judge: Judge | None) -> None:
        self._router = router
        self._fleet = fleet
        self._judge = judge

    async def generate(self, work: Work) -> v1.GenerateResponse:
        """Return the first answer that is accepted. Raises what `_outcome` says when there is none."""
        failures = _Failures(work)
        for candidate in failures.still_worth_trying():
            spec = work.spec
            for _ in range(1 + work.plan.limits.constrained_retries):
                verdict = await self._try(work, candidate, spec, failures)
                if isinstance(verdict, v1.GenerateResponse):
                    return verdict
                if verdict is None or verdict.decision != v1.VERDICT_DECISION_RETRY:
                    break
                spec = correction(spec, verdict)
        raise failures.outcome()

    async def _try(
        self, work: Work, candidate: Candidate, spec: v1.GenerationSpec, failures: _Failures
    ) -> v1.GenerateResponse | v1.Verdict | None:
        """Make one attempt: an accepted answer, the verdict on a refused one, or None after a failure."""
        target = candidate.target
        request = v1.GenerateRequest(spec=spec, stamp=self._stamp(work, candidate))
        request.spec.model = target.model
        try:
            attempt, response = await self._fleet.client(target).generate(
                target, request, work.call, work.journal, self._silence_s(work, candidate)
            )
        except SpillwayError as error:
            failures.add(error)
            return None
        outcome = v1.ATTEMPT_OUTCOME_CANCELLED
        try:
            verdict = await self._verdict(work, response)
            refused = verdict is not None and not accepted(verdict)
            outcome = v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR if refused else v1.ATTEMPT_OUTCOME_ANSWERED
        except SpillwayError:
            outcome = v1.ATTEMPT_OUTCOME_FAILED
            raise
        finally:
            work.journal.settle(attempt, outcome, model=response.started.model, usage=response.usage)
        if refused:
            assert verdict is not None
            failures.refuse(verdict)
            return verdict
        if verdict is not None:
            response.usage.verdict.CopyFrom(verdict)
        self._sign(response.started, work, candidate)
        work.journal.complete(response.usage)
        return response

    async def stream(self, work: Work) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield the events of an answer, in the delivery mode of the plan."""
        if work.plan.delivery is Delivery.COMMITTED:
            for event in unfolded(await self.generate(work)):
                yield event
            return
        failures = _Failures(work)
        sequence, left = 0, ""
        for candidate in failures.still_worth_trying():
            committed = False
            try:
                async with aclosing(self._relay(work, candidate)) as events:
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
                        raise _interrupted(error, sequence, work) from None
                    left = candidate.target.name if committed else left
                failures.add(error)
        if left:
            raise _interrupted(failures.outcome(), sequence, work)
        raise failures.outcome()

    async def _relay(self, work: Work, candidate: Candidate) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield one target's events, from the first token on, or in PROBED delivery from where the probe ends.

        A probe ends with its last token, or with the first that comes after the target's share of the deadline.
        """
        hold = 1 if work.plan.delivery is Delivery.LIVE else self._probe_tokens(work)
        request = v1.StreamGenerateRequest(spec=work.spec, stamp=self._stamp(work, candidate))
        request.spec.model = candidate.target.model
        silence_s = self._silence_s(work, candidate)
        probe_ends = work.call.deadline.left() - self._share_s(work, candidate)  # as seconds left
        held: list[v1.GenerationEvent] = []
        events = self._fleet.client(candidate.target).stream(
            candidate.target, request, work.call, work.journal, silence_s, work.plan.limits.idle_s
        )
        last: v1.GenerationEvent | None = None
        async with aclosing(events):
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "delta":
                    if not hold:
                        yield event
                        continue
                    held.append(event)
                    over = work.call.deadline.left() <= probe_ends
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
                else:
                    continue  # heartbeats of a target are its router's, not the caller's
                if not hold:
                    for waiting in held:
                        yield waiting
                    held.clear()
        if last is not None:  # the attempt is settled now, so the journal is whole
            work.journal.complete(last.usage)
            yield last

    async def _verdict(self, work: Work, response: v1.GenerateResponse) -> v1.Verdict | None:
        """Judge `response` as the plan wants it; an accepted JSON value replaces the text it was found in."""
        if work.plan.validation is Validation.OFF or not work.spec.HasField("constraint"):
            return None
        try:
            if self._judge is None:
                raise ValidatorUnavailable("validation was asked for and this router has no validator")
            verdicts = await self._judge.judge(work.spec.constraint, response, work.call)
        except ValidatorUnavailable as error:
            if work.plan.validation is Validation.PREFERRED:
                log.warning("answer.unvalidated", why=error.message)
                return None
            raise
        for choice, verdict in zip(response.choices, verdicts, strict=True):
            if verdict.decision == v1.VERDICT_DECISION_REPAIR:
                choice.content.text = verdict.accepted_json
        return worst(verdicts)

    def _stamp(self, work: Work, candidate: Candidate) -> v1.PolicyStamp:
        return v1.PolicyStamp(
            router=self._router,
            policy_revision=work.plan.policy_revision,
            tenant=work.call.caller.tenant,
            data_policy=tell_data_policy(work.plan.facts.data_policy),
            target=candidate.target.name,
            attempt=len(work.journal.attempts) + 1,
        )

    def _sign(self, started: v1.Started, work: Work, candidate: Candidate) -> None:
        started.request_id = work.call.request_id
        started.target = candidate.target.name
        number = len(work.journal.attempts)
        failed = "; ".join(
            f"{attempt.target.name} {attempt.record.reason or 'was refused'}" for attempt in work.journal.attempts[:-1]
        )
        started.route_reason = (
            f"{candidate.reasons[0]} (attempt {number}, after {failed})" if failed else candidate.reasons[0]
        )

    def _silence_s(self, work: Work, candidate: Candidate) -> float:
        """Seconds a target may stay silent: its share of what is left; for the last one the deadline itself rules."""
        if candidate is work.plan.taken[-1]:
            return work.call.deadline.left() + 1.0
        return self._share_s(work, candidate)

    def _share_s(self, work: Work, candidate: Candidate) -> float:
        """Seconds of the deadline that are this target's, to show itself."""
        left = work.call.deadline.left()
        return min(left, max(candidate.target.first_token_floor_s, left * work.plan.limits.first_token_share))

    def _probe_tokens(self, work: Work) -> int:
        delivery = work.policy.delivery
        return max(1, delivery.probe_tokens) if delivery.HasField("probe_tokens") else work.plan.limits.probe_tokens


class _Failures:
    """What has gone wrong so far, and what that leaves to try."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._error: SpillwayError | None = None
        self._verdict: v1.Verdict | None = None
        self._larger_than = 0

    @property
    def last(self) -> str:
        return self._error.reason if self._error is not None else ""

    def still_worth_trying(self) -> Iterator[Candidate]:
        """Yield the plan's targets; after an error that no other target can mend, none."""
        for candidate in self._work.plan.taken:
            if self._error is not None and not self._error.elsewhere:
                return
            if self._work.call.deadline.passed:
                return
            window = candidate.target.context_window
            if self._larger_than and window is not None and window <= self._larger_than:
                continue
            yield candidate
            if isinstance(self._error, ContextLengthExceeded):
                self._larger_than = max(self._larger_than, window or 0)

    def add(self, error: SpillwayError) -> None:
        self._error = error

    def refuse(self, verdict: v1.Verdict) -> None:
        self._verdict = verdict

    def outcome(self) -> SpillwayError:
        """The error of a request that nothing answered."""
        error, journal = self._error, self._work.journal
        if self._work.call.deadline.passed:
            return DeadlineExceeded("the deadline passed before any target answered", metadata=journal.told())
        if error is not None and not error.elsewhere:
            return error
        if self._verdict is not None:
            found = "; ".join(f"{finding.path or '/'}: {finding.message}" for finding in self._verdict.findings[:3])
            return OutputInvalid(f"every answer was refused: {found}", metadata=journal.told())
        if isinstance(error, ContextLengthExceeded):
            return error
        tried = ", ".join(f"{attempt.target.name} ({attempt.record.reason})" for attempt in journal.attempts)
        return AllTargetsFailed(
            f"all targets failed: {tried}",
            retry_after_s=error.retry_after_s if error is not None else None,
            metadata=journal.told(),
        )


def _interrupted(error: SpillwayError, sequence: int, work: Work) -> SpillwayError:
    """The error of a stream that had already begun."""
    if isinstance(error, DeadlineExceeded):
        return error
    tokens = sum(attempt.record.completion_tokens for attempt in work.journal.attempts)
    return StreamInterrupted(
        f"the stream was cut after {tokens} tokens: {error.reason}: {error.message}",
        metadata={"last_sequence": str(sequence - 1), "tokens": str(tokens), **work.journal.told()},
    )


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
