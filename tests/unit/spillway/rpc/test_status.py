from __future__ import annotations

import math

import grpc
import pytest
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st

from spillway import errors
from spillway.errors import BY_REASON, FieldViolation, SpillwayError
from spillway.rpc.status import (
    DETAILS_KEY,
    DOMAIN,
    MAX_DETAILS_BYTES,
    MAX_MESSAGE_BYTES,
    PUSHBACK_KEY,
    cut,
    from_rpc_error,
    from_status,
    to_status,
    trailers,
)


def over_the_wire(error: SpillwayError) -> SpillwayError:
    return from_rpc_error(AioRpcError(error.code, Metadata(), Metadata(*trailers(error)), details=error.message))


def plain(code: StatusCode, said: str = "") -> SpillwayError:
    return from_rpc_error(AioRpcError(code, Metadata(), Metadata(), details=said))


@pytest.mark.parametrize("kind", BY_REASON.values(), ids=BY_REASON)
def test_every_error_survives_the_wire_with_all_it_says(kind: type[SpillwayError]) -> None:
    sent = kind(
        "what happened",
        fields=[FieldViolation("spec.sampling.n", "must be 1"), FieldViolation("spec.input", "is missing")],
        retry_after_s=1.25,
        resource="openai/gpt",
        metadata={"attempt_1": "local: TARGET_DOWN"},
    )

    found = over_the_wire(sent)

    assert type(found) is kind
    assert (found.code, found.reason, found.elsewhere) == (kind.code, kind.reason, kind.elsewhere)
    assert found.message == "what happened"
    assert found.fields == sent.fields
    assert found.retry_after_s == 1.25
    assert found.resource == "openai/gpt"
    assert found.metadata == {"attempt_1": "local: TARGET_DOWN"}


@pytest.mark.parametrize("kind", BY_REASON.values(), ids=BY_REASON)
def test_what_an_error_does_not_say_is_absent_on_the_other_side(kind: type[SpillwayError]) -> None:
    found = over_the_wire(kind())

    assert (found.fields, found.retry_after_s, found.resource, found.metadata) == ((), None, "", {})


def test_a_status_has_exactly_one_error_info_of_our_domain() -> None:
    status = to_status(errors.QueueFull("full", retry_after_s=1, resource="queue"))

    infos = [part for part in status.details if part.Is(details.ErrorInfo.DESCRIPTOR)]
    info = details.ErrorInfo.FromString(infos[0].value)
    assert len(infos) == 1
    assert (info.domain, info.reason) == (DOMAIN, "QUEUE_FULL")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.QueueFull(retry_after_s=1), {"ErrorInfo", "RetryInfo", "QuotaFailure"}),
        (errors.NoCompliantTarget(), {"ErrorInfo", "PreconditionFailure"}),
        (errors.ModelUnknown(resource="x"), {"ErrorInfo", "ResourceInfo"}),
        (errors.RequestInvalid(fields=[FieldViolation("a", "b")]), {"ErrorInfo", "BadRequest"}),
        (errors.TargetDown(), {"ErrorInfo"}),
    ],
)
def test_details_are_those_the_contract_names(error: SpillwayError, expected: set[str]) -> None:
    assert {part.TypeName().rpartition(".")[2] for part in to_status(error).details} == expected


def test_advice_to_come_back_also_travels_as_pushback() -> None:
    assert dict(trailers(errors.TargetBusy(retry_after_s=0.2)))[PUSHBACK_KEY] == "200"
    assert PUSHBACK_KEY not in dict(trailers(errors.TargetBusy()))


@pytest.mark.parametrize("seconds", [-1.0, math.inf, 1e300])
def test_no_advice_of_a_provider_can_break_a_status(seconds: float) -> None:
    found = over_the_wire(errors.ProviderRateLimited(retry_after_s=seconds))

    assert found.retry_after_s is not None
    assert 0 <= found.retry_after_s <= 7 * 86_400


@given(
    message=st.text(max_size=3000),
    fields=st.lists(st.builds(FieldViolation, st.text(max_size=400), st.text(max_size=400)), max_size=40),
    resource=st.text(max_size=400),
    metadata=st.dictionaries(st.text(max_size=200), st.text(max_size=2000), max_size=60),
)
def test_details_never_pass_4_kib_and_the_reason_is_always_there(
    message: str, fields: list[FieldViolation], resource: str, metadata: dict[str, str]
) -> None:
    for kind in (errors.QueueFull, errors.NoCompliantTarget, errors.AllTargetsFailed):
        error = kind(message, fields=fields, retry_after_s=1, resource=resource, metadata=metadata)

        status = to_status(error)

        assert status.ByteSize() <= MAX_DETAILS_BYTES
        found = from_status(Status.FromString(status.SerializeToString()))
        assert type(found) is kind
        assert found.retry_after_s == 1


def test_the_longest_details_in_any_script_fit() -> None:
    wide = "😀" * 5000
    error = errors.NoCompliantTarget(
        wide,
        fields=[FieldViolation(wide, wide)] * 100,
        retry_after_s=1,
        resource=wide,
        metadata={f"attempt_{number}{wide}": wide for number in range(100)},
    )

    found = over_the_wire(error)

    assert to_status(error).ByteSize() <= MAX_DETAILS_BYTES
    assert type(found) is errors.NoCompliantTarget
    assert found.fields


def test_attempts_are_shortened_before_they_are_dropped() -> None:
    attempts = {f"attempt_{number}": f"target-{number}: TARGET_DOWN " + "x" * 500 for number in range(1, 9)}

    found = over_the_wire(errors.AllTargetsFailed(metadata=attempts))

    assert set(found.metadata) == set(attempts)
    assert all(value.startswith("target-") and value.endswith("…") for value in found.metadata.values())


@given(st.text(), st.integers(3, 50))
def test_a_cut_text_has_at_most_so_many_bytes_and_begins_as_it_did(text: str, limit: int) -> None:
    found = cut(text, limit)

    assert len(found.encode()) <= limit
    assert found == text or text.startswith(found.removesuffix("…"))


def test_a_lone_surrogate_does_not_break_a_status() -> None:
    assert to_status(errors.TargetDown("caf\udce9")).message == "caf?"
    assert MAX_MESSAGE_BYTES > 100


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (StatusCode.UNAVAILABLE, errors.TargetDown),
        (StatusCode.UNIMPLEMENTED, errors.TargetDown),
        (StatusCode.UNKNOWN, errors.TargetDown),
        (StatusCode.INTERNAL, errors.TargetDown),
        (StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (StatusCode.CANCELLED, errors.Cancelled),
        (StatusCode.RESOURCE_EXHAUSTED, errors.QueueFull),
        (StatusCode.INVALID_ARGUMENT, errors.RequestInvalid),
        (StatusCode.UNAUTHENTICATED, errors.KeyUnknown),
        (StatusCode.PERMISSION_DENIED, errors.ScopeMissing),
    ],
)
def test_a_status_that_is_not_ours_is_read_by_its_code(code: grpc.StatusCode, kind: type[SpillwayError]) -> None:
    found = plain(code, "said")

    assert type(found) is kind
    assert found.message == f"{code.name}: said"


def test_a_message_too_large_for_grpc_is_the_requests_fault_and_tried_nowhere_else() -> None:
    found = plain(StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (17000000 vs. 16777216)")

    assert type(found) is errors.RequestInvalid
    assert not found.elsewhere


def test_details_of_another_domain_are_not_ours() -> None:
    status = Status(code=8)
    status.details.add().Pack(details.ErrorInfo(domain="googleapis.com", reason="TARGET_DOWN"))

    assert from_status(status) is None


def test_garbage_in_the_details_is_no_crash() -> None:
    error = AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata((DETAILS_KEY, b"\xff\xff")), details="")

    assert type(from_rpc_error(error)) is errors.TargetDown


@pytest.mark.parametrize(("code", "reason"), [(14, "A_REASON_OF_TOMORROW"), (14, "REQUEST_INVALID")])
def test_an_unknown_or_contradictory_reason_is_read_by_its_code(code: int, reason: str) -> None:
    status = Status(code=code)
    status.details.add().Pack(details.ErrorInfo(domain=DOMAIN, reason=reason))

    assert type(from_status(status)) is errors.TargetDown


def test_a_code_that_grpc_does_not_have_is_internal() -> None:
    status = Status(code=99)
    status.details.add().Pack(details.ErrorInfo(domain=DOMAIN, reason="TARGET_DOWN"))

    assert type(from_status(status)) is errors.Internal
