"""The validator as the router sees it: an answer in, a verdict out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from spillway import v1
from spillway.bundle import Unbundled, bundled
from spillway.errors import DeadlineExceeded, TargetUnavailable, ValidatorUnavailable
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry import names
from spillway.v1 import validator_pb2_grpc

from .following import Following
from .release import Release

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

    async def judge(self, constraint: v1.OutputConstraint, answer: v1.GenerateResponse, call: Call) -> list[v1.Verdict]:
        """Return one verdict per choice of `answer`."""
        request = v1.ValidateRequest(
            constraint=constraint,
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
        if len(response.verdicts) != len(answer.choices):
            raise ValidatorUnavailable(f"{len(answer.choices)} answers were judged {len(response.verdicts)} times")
        return list(response.verdicts)

    @asynccontextmanager
    async def follow(
        self, constraint: v1.OutputConstraint, call: Call, release: Release | None = None
    ) -> AsyncIterator[Following]:
        """Have an answer judged while it comes, for the block; what is accepted of its records goes to `release`."""
        async with self._remote.duplex(self._validate_stream, call, span_name=names.VALIDATE_STREAM) as rpc:
            following = Following(rpc, constraint, self._timeout_s, release)
            listening = asyncio.create_task(following.listen(), name="verdicts")
            try:
                yield following
                await following.end()
                await asyncio.wait({listening}, timeout=GOODBYE_S)
            finally:
                rpc.cancel()
                listening.cancel()
                await asyncio.wait({listening})


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


def correction(spec: v1.GenerationSpec, verdict: v1.Verdict) -> v1.GenerationSpec:
    """Return the spec of a second try at the same target.

    A first try that was free is guided now; one that was guided already, or cannot be, is told what was wrong with it.
    """
    again = v1.GenerationSpec()
    again.CopyFrom(spec)
    if spec.constraint.enforcement == v1.ENFORCEMENT_CHECKED and tellable(spec.constraint):
        again.constraint.enforcement = v1.ENFORCEMENT_GUIDED
    elif again.WhichOneof("input") == "chat":
        said = verdict.instruction or _told(verdict)
        again.chat.messages.add(role=v1.ROLE_USER, parts=[v1.Part(text=said)])
    return again


def _told(verdict: v1.Verdict) -> str:
    """What to say where the validator, an older one, wrote nothing for the model."""
    wrong = "; ".join(finding.message for finding in verdict.findings[:8])
    return f"Your last answer was refused: {wrong or 'it is not valid'}. Answer again, with valid output only."
