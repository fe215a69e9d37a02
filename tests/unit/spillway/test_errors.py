from __future__ import annotations

import pytest
from grpc import StatusCode

from spillway import errors
from spillway.errors import BY_REASON, SpillwayError

CONTRACT = {
    "REQUEST_INVALID": (StatusCode.INVALID_ARGUMENT, False),
    "CONTEXT_LENGTH_EXCEEDED": (StatusCode.INVALID_ARGUMENT, True),
    "CONSTRAINT_UNSUPPORTED": (StatusCode.INVALID_ARGUMENT, False),
    "SCHEMA_INVALID": (StatusCode.INVALID_ARGUMENT, False),
    "KEY_UNKNOWN": (StatusCode.UNAUTHENTICATED, False),
    "SCOPE_MISSING": (StatusCode.PERMISSION_DENIED, False),
    "POLICY_BLOCKED": (StatusCode.PERMISSION_DENIED, False),
    "MODEL_UNKNOWN": (StatusCode.NOT_FOUND, False),
    "ADAPTER_UNKNOWN": (StatusCode.NOT_FOUND, False),
    "REQUEST_ID_IN_USE": (StatusCode.ALREADY_EXISTS, False),
    "REQUEST_ID_REUSED": (StatusCode.ALREADY_EXISTS, False),
    "TARGET_UNKNOWN": (StatusCode.NOT_FOUND, False),
    "NO_COMPLIANT_TARGET": (StatusCode.FAILED_PRECONDITION, False),
    "CONTENT_FILTERED": (StatusCode.FAILED_PRECONDITION, False),
    "TENANT_QUOTA": (StatusCode.RESOURCE_EXHAUSTED, False),
    "COST_CAP": (StatusCode.RESOURCE_EXHAUSTED, False),
    "PROVIDER_RATE_LIMITED": (StatusCode.RESOURCE_EXHAUSTED, True),
    "PROVIDER_OUT_OF_CREDIT": (StatusCode.RESOURCE_EXHAUSTED, True),
    "QUEUE_FULL": (StatusCode.RESOURCE_EXHAUSTED, True),
    "TARGET_DOWN": (StatusCode.UNAVAILABLE, True),
    "TARGET_BUSY": (StatusCode.UNAVAILABLE, True),
    "TARGET_TIMEOUT": (StatusCode.UNAVAILABLE, True),
    "TARGET_DRAINING": (StatusCode.UNAVAILABLE, True),
    "TARGET_MODEL_MISSING": (StatusCode.UNAVAILABLE, True),
    "PROVIDER_AUTH_FAILED": (StatusCode.UNAVAILABLE, True),
    "PROVIDER_ERROR": (StatusCode.UNAVAILABLE, True),
    "BREAKER_OPEN": (StatusCode.UNAVAILABLE, True),
    "VALIDATOR_UNAVAILABLE": (StatusCode.UNAVAILABLE, False),
    "ALL_TARGETS_FAILED": (StatusCode.UNAVAILABLE, False),
    "STREAM_INTERRUPTED": (StatusCode.ABORTED, False),
    "OUTPUT_INVALID": (StatusCode.ABORTED, False),
    "EXPIRED": (StatusCode.DEADLINE_EXCEEDED, False),
    "DEADLINE_UNMEETABLE": (StatusCode.DEADLINE_EXCEEDED, False),
    "CANCELLED": (StatusCode.CANCELLED, False),
    "INTERNAL": (StatusCode.INTERNAL, False),
}
"""Reason -> status, and whether another target may be tried, as the contract's table has them."""


def test_every_reason_has_the_status_and_the_advice_of_the_contract() -> None:
    assert {reason: (kind.code, kind.elsewhere) for reason, kind in BY_REASON.items()} == CONTRACT


def test_a_reason_belongs_to_one_class() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SpillwayError)]
    named = [kind.reason for kind in kinds if "reason" in vars(kind) and kind is not SpillwayError]

    assert len(named) == len(set(named))


@pytest.mark.parametrize("kind", BY_REASON.values(), ids=BY_REASON)
def test_an_error_without_a_message_is_called_by_its_reason(kind: type[SpillwayError]) -> None:
    assert str(kind()) == kind.reason
    assert repr(kind("so it is")) == f"<{kind.reason} 'so it is'>"
