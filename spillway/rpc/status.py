"""Errors on the wire: `SpillwayError` <-> gRPC status with `google.rpc` details."""

from __future__ import annotations

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
"""Well below the 16 KiB at which gRPC drops the details whole, and with the message below the 8 KiB where it may."""
MAX_MESSAGE_BYTES = 600
"""Of the message, which travels twice, once percent-encoded."""
MAX_RETRY_AFTER_S = 7 * 86_400.0

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
    info = details.ErrorInfo(domain=DOMAIN, reason=error.reason, metadata=_short(error.metadata, 1800))
    parts: list[Message] = [info]
    request = details.BadRequest()
    if error.fields:
        for violation in error.fields[:8]:
            request.field_violations.add(field=cut(violation.field, 120), description=cut(violation.description, 120))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(_milliseconds(error.retry_after_s))
        parts.append(details.RetryInfo(retry_delay=delay))
    if error.code is StatusCode.RESOURCE_EXHAUSTED:
        quota = details.QuotaFailure()
        quota.violations.add(subject=cut(error.resource, 120), description=cut(error.message, 200))
        parts.append(quota)
    elif error.code is StatusCode.FAILED_PRECONDITION:
        condition = details.PreconditionFailure()
        condition.violations.add(
            type=error.reason, subject=cut(error.resource, 120), description=cut(error.message, 200)
        )
        parts.append(condition)
    elif error.resource:
        parts.append(details.ResourceInfo(resource_name=cut(error.resource, 120)))
    if error.fields:
        parts.append(request)  # last and longest: what does not fit is left out
    status = Status(code=error.code.value[0], message=cut(error.message, MAX_MESSAGE_BYTES))
    for part in parts:
        status.details.add().Pack(part)
    while status.ByteSize() > MAX_DETAILS_BYTES and request.field_violations:
        request.field_violations.pop()
        status.details[-1].Pack(request)
    return status


def trailers(error: SpillwayError) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata that carries `error`."""
    found: list[tuple[str, str | bytes]] = [(DETAILS_KEY, to_status(error).SerializeToString())]
    if error.retry_after_s is not None:
        found.append((PUSHBACK_KEY, str(_milliseconds(error.retry_after_s))))
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
    code, said = error.code() or StatusCode.UNKNOWN, error.details() or ""
    kind = _PLAIN_CODES.get(code, errors.TargetDown)
    if code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in said:
        kind = errors.RequestInvalid  # gRPC's own words for a message no other try will make shorter
    return kind(cut(f"{code.name}: {said}", MAX_MESSAGE_BYTES))


def from_status(status: Status) -> SpillwayError | None:
    """Return the error a status of ours carries, or None if it is not ours."""
    info, violations, retry_after_s, resource = details.ErrorInfo(), [], None, ""
    for packed in status.details:
        if packed.Unpack(info):
            continue
        request, retry, owner = details.BadRequest(), details.RetryInfo(), details.ResourceInfo()
        quota, condition = details.QuotaFailure(), details.PreconditionFailure()
        if packed.Unpack(request):
            violations = [FieldViolation(found.field, found.description) for found in request.field_violations]
        elif packed.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        elif packed.Unpack(owner):
            resource = owner.resource_name
        elif packed.Unpack(quota):
            resource = quota.violations[0].subject if quota.violations else ""
        elif packed.Unpack(condition):
            resource = condition.violations[0].subject if condition.violations else ""
    if info.domain != DOMAIN:
        return None
    code = _CODES.get(status.code, StatusCode.UNKNOWN)
    kind = errors.BY_REASON.get(info.reason)
    if kind is None or kind.code is not code:  # a reason of another version: its code says what may be done
        kind = _PLAIN_CODES.get(code, errors.Internal)
    return kind(
        status.message, fields=violations, retry_after_s=retry_after_s, resource=resource, metadata=dict(info.metadata)
    )


def cut(text: str, limit: int) -> str:
    """Return `text` as at most `limit` bytes of UTF-8, with an ellipsis where something is missing."""
    raw = text.encode(errors="replace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode(errors="ignore") + "…"


def _milliseconds(seconds: float) -> int:
    return round(min(max(seconds, 0.0), MAX_RETRY_AFTER_S) * 1000)


def _short(metadata: dict[str, str], budget: int) -> dict[str, str]:
    """Return as much of `metadata` as fits `budget` bytes, long values shortened first."""
    share = max(16, budget // max(1, len(metadata)) - 32)
    kept: dict[str, str] = {}
    for key, value in metadata.items():
        key, value = cut(key, 64), cut(value, share)
        budget -= len(key.encode()) + len(value.encode()) + 8
        if budget < 0:
            break
        kept[key] = value
    return kept
