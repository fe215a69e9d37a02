"""Errors on the wire: `SpillwayError` <-> gRPC status with `google.rpc` details."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc.aio import AioRpcError

from spillway import errors
from spillway.errors import FieldViolation, SpillwayError

DOMAIN = "spillway"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
MAX_DETAILS_BYTES = 4096
"""Well below the 16 KiB at which gRPC drops the details whole."""

_CODES = {code.value[0]: code for code in StatusCode}

_PLAIN_CODES: dict[StatusCode, type[SpillwayError]] = {
    StatusCode.UNAVAILABLE: errors.TargetDown,
    StatusCode.UNIMPLEMENTED: errors.TargetDown,
    StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    StatusCode.CANCELLED: errors.Cancelled,
    StatusCode.RESOURCE_EXHAUSTED: errors.QueueFull,
    StatusCode.INVALID_ARGUMENT: errors.RequestInvalid,
    StatusCode.UNAUTHENTICATED: errors.KeyUnknown,
    StatusCode.PERMISSION_DENIED: errors.ScopeMissing,
    StatusCode.NOT_FOUND: errors.ModelUnknown,
}
"""For a status without our details: what gRPC itself, or a proxy between, meant."""


def to_status(error: SpillwayError) -> Status:
    """Return the status of `error`, its details shortened to fit 4 KiB."""
    info = details.ErrorInfo(domain=DOMAIN, reason=error.reason, metadata=_short(error.metadata, 2048))
    parts: list[Message] = [info]
    if error.fields:
        request = details.BadRequest()
        for violation in error.fields[:8]:
            request.field_violations.add(field=violation.field[:120], description=violation.description[:120])
        parts.append(request)
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        parts.append(details.RetryInfo(retry_delay=delay))
    if error.code is StatusCode.RESOURCE_EXHAUSTED:
        quota = details.QuotaFailure()
        quota.violations.add(subject=error.resource[:120] or error.reason, description=error.message[:200])
        parts.append(quota)
    elif error.code is StatusCode.FAILED_PRECONDITION:
        condition = details.PreconditionFailure()
        condition.violations.add(type=error.reason, subject=error.resource[:120], description=error.message[:200])
        parts.append(condition)
    elif error.resource:
        parts.append(details.ResourceInfo(resource_name=error.resource[:120]))
    status = Status(code=error.code.value[0], message=error.message[:1000])
    for part in parts:
        packed = Any()
        packed.Pack(part)
        if status.ByteSize() + packed.ByteSize() < MAX_DETAILS_BYTES:
            status.details.append(packed)
    return status


def trailers(error: SpillwayError) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata that carries `error`."""
    found: list[tuple[str, str | bytes]] = [(DETAILS_KEY, to_status(error).SerializeToString())]
    if error.retry_after_s is not None:
        found.append((PUSHBACK_KEY, str(round(error.retry_after_s * 1000))))
    return tuple(found)


def from_rpc_error(error: AioRpcError) -> SpillwayError:
    """Return what the other side meant by `error`; a status that is not ours is read by its code alone."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                found = from_status(Status.FromString(value))
            except DecodeError:
                break
            if found is not None:
                return found
    code = error.code() or StatusCode.UNKNOWN
    kind = _PLAIN_CODES.get(code, errors.TargetDown)
    return kind(f"{code.name}: {error.details() or ''}"[:500])


def from_status(status: Status) -> SpillwayError | None:
    """Return the error a status of ours carries, or None if it is not ours."""
    info, violations, retry_after_s, resource = details.ErrorInfo(), [], None, ""
    for packed in status.details:
        if packed.Unpack(info):
            continue
        request, retry, owner, quota = (
            details.BadRequest(),
            details.RetryInfo(),
            details.ResourceInfo(),
            details.QuotaFailure(),
        )
        if packed.Unpack(request):
            violations = [FieldViolation(found.field, found.description) for found in request.field_violations]
        elif packed.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        elif packed.Unpack(owner):
            resource = owner.resource_name
        elif packed.Unpack(quota):
            resource = quota.violations[0].subject if quota.violations else ""
    if info.domain != DOMAIN:
        return None
    kind = errors.BY_REASON.get(info.reason, _PLAIN_CODES.get(_CODES[status.code], errors.Internal))
    return kind(
        status.message, fields=violations, retry_after_s=retry_after_s, resource=resource, metadata=dict(info.metadata)
    )


def _short(metadata: dict[str, str], budget: int) -> dict[str, str]:
    if not metadata:
        return {}
    share = max(16, budget // len(metadata) - 16)
    kept: dict[str, str] = {}
    for key, value in metadata.items():
        budget -= len(key) + min(len(value), share) + 8
        if budget < 0:
            break
        kept[key] = value if len(value) <= share else value[: share - 1] + "…"
    return kept
