"""The validator as the router sees it: an answer in, a verdict out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from spillway import v1
from spillway.bundle import Unbundled, bundled
from spillway.errors import DeadlineExceeded, FieldViolation, RequestInvalid, TargetUnavailable, ValidatorUnavailable
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry import names
from spillway.v1 import validator_pb2_grpc

from .facts import Validation
from .following import Following
from .plan import Plan
from .release import Release
from .work import Work

log = get_logger(__name__)

GOODBYE_S = 0.1
"""Longest wait for the end of a call in which everything is said; its span then ends as the call does."""


class Judge:
    """Asks the validator. Raises ValidatorUnavailable where it does not answer, SchemaInvalid for a bad schema."""

    def __init__(self, remote: Remote, timeout_s: float) -> None:
        self._remote = remote
        self._timeout_s = timeout_s
        stub = validator_pb2_grpc.ValidatorServiceStub(remote.channel)
        self._validate = stub.Validate
        self._validate_stream = stub.ValidateStream

    async def judge(
        self, constraint: v1.OutputConstraint, answer: v1.GenerateResponse, call: Call, policies: Sequence[str] = ()
    ) -> list[v1.Verdict]:
        """Return one verdict per choice of `answer`: what `constraint` and the judgement `policies` say."""
        request = v1.ValidateRequest(
            constraint=constraint,
            policies=policies,
            answers=[
                v1.Answer(text=choice.content.text, truncated=choice.finish.reason == v1.FINISH_REASON_LENGTH)
                for choice in answer.choices
            ],
        )
        call = call.until(call.deadline.within(self._timeout_s))
        try:
            response = await self._remote.unary(self._validate, request, call, span_name=names.VALIDATE)
        except (TargetUnavailable, DeadlineExceeded) as error:
            raise ValidatorUnavailable(f"the validator did not answer: {error.message}") from None
        except RequestInvalid as error:
            raise _of_judgements(error) from None
        if len(response.verdicts) != len(answer.choices):
            raise ValidatorUnavailable(f"{len(answer.choices)} answers were judged {len(response.verdicts)} times")
        return list(response.verdicts)

    @asynccontextmanager
    async def follow(
        self,
        constraint: v1.OutputConstraint,
        call: Call,
        policies: Sequence[str] = (),
        release: Release | None = None,
    ) -> AsyncIterator[Following]:
        """Have an answer judged while it comes, for the block; what is accepted of its records goes to `release`."""
        async with self._remote.duplex(self._validate_stream, call, span_name=names.VALIDATE_STREAM) as rpc:
            following = Following(rpc, constraint, self._timeout_s, policies, release)
            listening = asyncio.create_task(following.listen(), name="verdicts")
            try:
                yield following
                await following.end()
                await asyncio.wait({listening}, timeout=GOODBYE_S)
            finally:
                rpc.cancel()
                listening.cancel()
                await asyncio.wait({listening})


async def verdict_on(
    response: v1.GenerateResponse, work: Work, judge: Judge | None, verdicts: list[v1.Verdict] | None
) -> v1.Verdict | None:
    """Judge `response` as the plan of `work` wants it, unless it was judged as it came; None where nothing judges it.

    An accepted JSON value replaces the text it was found in. Raises ValidatorUnavailable where no `judge` answers.
    """
    plan = work.plan
    if not judged(work.spec, plan):
        return None
    try:
        if judge is None:
            raise ValidatorUnavailable("validation was asked for and this router has no validator")
        if verdicts is None:
            verdicts = await judge.judge(standard(work.spec, plan), response, work.call, plan.judgements)
    except ValidatorUnavailable as error:
        if plan.validation is Validation.PREFERRED:
            log.warning("answer.unvalidated", why=error.message)
            return None
        raise
    if work.release is not None:
        verdicts = work.release.held_to(verdicts)
    for choice, verdict in zip(response.choices, verdicts, strict=True):
        if verdict.decision == v1.VERDICT_DECISION_REPAIR:
            choice.content.text = verdict.accepted_json
    return worst(verdicts)


def worst(verdicts: list[v1.Verdict]) -> v1.Verdict:
    """The verdict on an answer of several choices: that of its worst."""
    return max(verdicts, key=lambda verdict: verdict.decision)


def accepted(verdict: v1.Verdict) -> bool:
    """Whether the answer may be given to the caller."""
    return verdict.decision in (v1.VERDICT_DECISION_ACCEPT, v1.VERDICT_DECISION_REPAIR)


def first_try(spec: v1.GenerationSpec) -> v1.GenerationSpec:
    """Return the spec of a first try: free where its schema refers to what no target can be told."""
    if tellable(spec.constraint):
        return spec
    free = v1.GenerationSpec()
    free.CopyFrom(spec)
    free.constraint.enforcement = v1.ENFORCEMENT_CHECKED
    return free


def tellable(constraint: v1.OutputConstraint) -> bool:
    """Whether a target's decoder can be held to `constraint`; not so a schema that only the validator can read."""
    try:
        bundled(constraint.json_schema, constraint.schemas)
    except Unbundled:
        return False
    return True


def standard(spec: v1.GenerationSpec, plan: Plan) -> v1.OutputConstraint:
    """What the validator is to hold the answer to, beside judgement policies.

    It may say no more than that nothing is mended: policies may ask for JSON too.
    """
    return bound(spec, plan).constraint if spec.HasField("constraint") else _constraint(plan)


def bound(spec: v1.GenerationSpec, plan: Plan) -> v1.GenerationSpec:
    """Return `spec` with what its policy says of mending, where it has a constraint: its target may be a router."""
    if plan.mends or not spec.HasField("constraint"):
        return spec
    strict = v1.GenerationSpec()
    strict.CopyFrom(spec)
    strict.constraint.MergeFrom(_constraint(plan))
    return strict


def _constraint(plan: Plan) -> v1.OutputConstraint:
    return v1.OutputConstraint(repair=v1.REPAIR_UNSPECIFIED if plan.mends else v1.REPAIR_FORBIDDEN)


def judged(spec: v1.GenerationSpec, plan: Plan) -> bool:
    """Whether the answer to `spec` is judged."""
    return plan.validation is not Validation.OFF and (spec.HasField("constraint") or bool(plan.judgements))


def _of_judgements(error: RequestInvalid) -> RequestInvalid:
    """`error` as it concerns the request: the validator's `policies` are its judgements."""
    if not any(field.field.startswith("policies") for field in error.fields):
        return error
    fields = [FieldViolation("policy.judgements", field.description) for field in error.fields]
    told = "; ".join(field.description for field in fields)
    return type(error)(f"policy.judgements: {told}", fields=fields)


def correction(spec: v1.GenerationSpec, verdict: v1.Verdict) -> v1.GenerationSpec:
    """Return the spec of a second try at the same target.

    A first try that was free is guided now; one that was guided already or cannot be, or broke the rule of a judgement
    policy, is told what was wrong with it.
    """
    again = v1.GenerationSpec()
    again.CopyFrom(spec)
    free = spec.constraint.enforcement == v1.ENFORCEMENT_CHECKED and tellable(spec.constraint)
    if free:
        again.constraint.enforcement = v1.ENFORCEMENT_GUIDED
    if (not free or any(finding.rule for finding in verdict.findings)) and again.WhichOneof("input") == "chat":
        said = verdict.instruction or _told(verdict)
        again.chat.messages.add(role=v1.ROLE_USER, parts=[v1.Part(text=said)])
    return again


def _told(verdict: v1.Verdict) -> str:
    """What to say where the validator, an older one, wrote nothing for the model."""
    wrong = "; ".join(finding.message for finding in verdict.findings[:8])
    return f"Your last answer was refused: {wrong or 'it is not valid'}. Answer again, with valid output only."
