"""What can go wrong, as the contract names it.

Every error declares its gRPC status and its reason on the class, and what the caller may do: whether another target may
be tried, and when to come back. `spillway.rpc.status` turns them into `google.rpc` details and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from grpc import StatusCode


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that is wrong: its path in the request, and a sentence on what to do."""

    field: str
    description: str


class SpillwayError(Exception):
    """Root of all errors that cross a service boundary.

    `elsewhere` says whether another target may be tried for the same request; `retry_after_s` (seconds) when the same
    call may succeed, where that is known. `metadata` holds short facts for programs; it must never hold prompt or
    answer text.
    """

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    elsewhere: bool = False

    def __init__(
        self,
        message: str = "",
        *,
        fields: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
        resource: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or self.reason)
        self.message = message or self.reason
        self.fields = tuple(fields)
        self.retry_after_s = retry_after_s
        self.resource = resource
        self.metadata = dict(metadata or {})

    def __repr__(self) -> str:
        return f"<{self.reason} {self.message!r}>"


# The request itself is wrong.


class RequestInvalid(SpillwayError):
    code = StatusCode.INVALID_ARGUMENT
    reason = "REQUEST_INVALID"

    @classmethod
    def at(cls, path: str, why: str) -> Self:
        """Return the error that names one field of the request, by its `path`."""
        return cls(f"{path}: {why}", fields=[FieldViolation(path, why)])


class ContextLengthExceeded(RequestInvalid):
    reason = "CONTEXT_LENGTH_EXCEEDED"
    elsewhere = True  # on a target with a larger context only


class ConstraintUnsupported(RequestInvalid):
    reason = "CONSTRAINT_UNSUPPORTED"


UNSUPPORTED_RPC = "rpc"
"""In the metadata of ConstraintUnsupported: the rpc that is not this target's, though it may be another's."""


class SchemaInvalid(RequestInvalid):
    reason = "SCHEMA_INVALID"


# The caller may not.


class KeyUnknown(SpillwayError):
    code = StatusCode.UNAUTHENTICATED
    reason = "KEY_UNKNOWN"


class ScopeMissing(SpillwayError):
    code = StatusCode.PERMISSION_DENIED
    reason = "SCOPE_MISSING"


class PolicyBlocked(SpillwayError):
    code = StatusCode.PERMISSION_DENIED
    reason = "POLICY_BLOCKED"


# What was named does not exist.


class NotFound(SpillwayError):
    code = StatusCode.NOT_FOUND


class ModelUnknown(NotFound):
    reason = "MODEL_UNKNOWN"


class AdapterUnknown(NotFound):
    reason = "ADAPTER_UNKNOWN"


class TargetUnknown(NotFound):
    reason = "TARGET_UNKNOWN"


# The request's id is another's.


class AlreadyExists(SpillwayError):
    code = StatusCode.ALREADY_EXISTS


class RequestIdInUse(AlreadyExists):
    """A stream is under way under this id, or was asked for under the id of a Generate."""

    reason = "REQUEST_ID_IN_USE"


class RequestIdReused(AlreadyExists):
    """The id belongs to a request with another body."""

    reason = "REQUEST_ID_REUSED"


# Nothing is wrong with the request, but it cannot be answered as it stands.


class NoCompliantTarget(SpillwayError):
    code = StatusCode.FAILED_PRECONDITION
    reason = "NO_COMPLIANT_TARGET"


class ContentFiltered(SpillwayError):
    code = StatusCode.FAILED_PRECONDITION
    reason = "CONTENT_FILTERED"


# A limit was reached.


class LimitReached(SpillwayError):
    code = StatusCode.RESOURCE_EXHAUSTED


class TenantQuota(LimitReached):
    reason = "TENANT_QUOTA"


class CostCap(LimitReached):
    reason = "COST_CAP"


class ProviderRateLimited(LimitReached):
    reason = "PROVIDER_RATE_LIMITED"
    elsewhere = True


class ProviderOutOfCredit(LimitReached):
    reason = "PROVIDER_OUT_OF_CREDIT"
    elsewhere = True


class QueueFull(LimitReached):
    reason = "QUEUE_FULL"
    elsewhere = True


# The target failed; before the commit another may answer.


class TargetUnavailable(SpillwayError):
    code = StatusCode.UNAVAILABLE
    elsewhere = True


class TargetDown(TargetUnavailable):
    reason = "TARGET_DOWN"


class TargetBusy(TargetUnavailable):
    reason = "TARGET_BUSY"


class TargetTimeout(TargetUnavailable):
    reason = "TARGET_TIMEOUT"


class TargetDraining(TargetUnavailable):
    reason = "TARGET_DRAINING"


class TargetModelMissing(TargetUnavailable):
    reason = "TARGET_MODEL_MISSING"


class ProviderAuthFailed(TargetUnavailable):
    reason = "PROVIDER_AUTH_FAILED"


class ProviderError(TargetUnavailable):
    reason = "PROVIDER_ERROR"


class BreakerOpen(TargetUnavailable):
    reason = "BREAKER_OPEN"


class ValidatorUnavailable(TargetUnavailable):
    """The answer was to be judged and no validator could be reached (not a row of a target)."""

    reason = "VALIDATOR_UNAVAILABLE"
    elsewhere = False


class AllTargetsFailed(TargetUnavailable):
    """Every target of the plan failed; `metadata` lists the attempts as `attempt_1`, `attempt_2`, ..."""

    reason = "ALL_TARGETS_FAILED"
    elsewhere = False


# The answer ended badly after the commit, or was refused.


class AnswerAborted(SpillwayError):
    code = StatusCode.ABORTED


class StreamInterrupted(AnswerAborted):
    reason = "STREAM_INTERRUPTED"


class OutputInvalid(AnswerAborted):
    reason = "OUTPUT_INVALID"


# Time is up.


class DeadlineExceeded(SpillwayError):
    """The caller's own deadline has passed."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "EXPIRED"


class DeadlineUnmeetable(DeadlineExceeded):
    reason = "DEADLINE_UNMEETABLE"


class Cancelled(SpillwayError):
    """The caller went away."""

    code = StatusCode.CANCELLED
    reason = "CANCELLED"


class Internal(SpillwayError):
    """A defect; the request id is all that is told."""

    reason = "INTERNAL"


def _tree(root: type[SpillwayError]) -> list[type[SpillwayError]]:
    return [root, *(error for child in root.__subclasses__() for error in _tree(child))]


BY_REASON: Mapping[str, type[SpillwayError]] = {
    error.reason: error for error in _tree(SpillwayError) if "reason" in vars(error)
}
"""Reason of the contract's error table -> class."""
