"""Between attempts and breakers: what a settled attempt says, and which kind of work it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from spillway import v1
from spillway.embedding import Spec
from spillway.errors import ProviderRateLimited, SpillwayError
from spillway.record import record

from .journal import Attempt
from .outcome import TABLE, Outcome

_CLOSED_BY_PROVIDER = "closed_by_provider"
"""The cloud proxy's word for a provider that asked to be left alone."""


@record
class Observation:
    """What an attempt said about its target. `began` is on the router's clock; `accepted` None: it was not judged."""

    outcome: Outcome
    began: float
    retry_after_s: float | None = None
    accepted: bool | None = None


def observe(attempt: Attempt, error: SpillwayError | None = None) -> Observation:
    """Read a settled `attempt`; `error` is what it was settled with, for its Retry-After."""
    record, began = attempt.record, attempt.began
    if record.outcome == v1.ATTEMPT_OUTCOME_ANSWERED:
        return Observation(Outcome.ANSWERED, began, accepted=True)
    if record.outcome == v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR:
        return Observation(Outcome.REFUSED, began, accepted=False)
    if record.outcome != v1.ATTEMPT_OUTCOME_FAILED:
        return Observation(Outcome.NEUTRAL, began)
    if not record.reason:  # a whole answer that could not be judged: the validator's failure, not the target's
        return Observation(Outcome.ANSWERED, began)
    outcome = TABLE.get(record.reason, Outcome.FAILED)
    if outcome is Outcome.REFUSED:
        return Observation(outcome, began, accepted=False)
    if _hasty(attempt):
        outcome = Outcome.NEUTRAL
    return Observation(outcome, began, _retry_after_s(error))


def kind_of_spec(task: str, spec: Spec, judgements: Sequence[str] = ()) -> str:
    """What the quality of what is made of `spec` is counted by; empty: vectors are not judged.

    Where there are `judgements`, it is told apart by them too.
    """
    if isinstance(spec, v1.EmbeddingSpec):
        return ""
    kind = kind_of_work(task, spec.constraint)
    return f"{kind} judged {_digest(','.join(judgements))}".lstrip() if judgements else kind


def kind_of_work(task: str, constraint: v1.OutputConstraint) -> str:
    """What quality is counted by: the constraint's digest, so that a schema nothing can meet harms itself alone.

    Without a constraint, and for any JSON object, it is the task.
    """
    match constraint.WhichOneof("constraint"):
        case None:
            return task
        case "json_object":
            return f"json_object {task}".rstrip()
        case "choices":
            content = "\0".join(constraint.choices.values)
        case "json_schema":
            others = sorted(constraint.schemas.items())
            content = "\0".join([constraint.json_schema, *(text for pair in others for text in pair)])
        case name:
            content = getattr(constraint, name)
    return f"{constraint.WhichOneof('constraint')} {_digest(content)}"


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _hasty(attempt: Attempt) -> bool:
    """Whether the caller's deadline gave the target less than its floor for the first token: no fault of the target."""
    record = attempt.record
    waited_s = record.duration_ms / 1000
    silent = record.reason == "TARGET_TIMEOUT" and not record.HasField("first_token_ms")
    return silent and waited_s < attempt.target.first_token_floor_s


def _retry_after_s(error: SpillwayError | None) -> float | None:
    """For how long all should stay away. Our own limit may have held this request alone, for its size."""
    if error is None:
        return None
    ours = isinstance(error, ProviderRateLimited) and error.metadata.get("limit", _CLOSED_BY_PROVIDER)
    return error.retry_after_s if ours in (False, _CLOSED_BY_PROVIDER) else None
