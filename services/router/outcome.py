"""What an attempt says about its target: one table for every reason of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Outcome(Enum):
    """What the end of an attempt says about the target."""

    ANSWERED = "answered"
    DOWN = "down"
    """Connection-level: nothing of an answer could be had. Some in a row open a breaker, and so does their share."""
    FAILED = "failed"
    """It was reached and could not serve. Only the share counts."""
    REFUSED = "refused"
    """It answered, and the answer was no good: quality, not transport."""
    AWAY = "away"
    """It, or a limit before it, has no room now. Not a failure; where it says when to come back, that is heeded."""
    NEUTRAL = "neutral"
    """The caller's doing, or the policy's. Says nothing about the target."""


TABLE: Mapping[str, Outcome] = {
    "TARGET_DOWN": Outcome.DOWN,
    "TARGET_TIMEOUT": Outcome.DOWN,
    "PROVIDER_ERROR": Outcome.DOWN,  # 5xx: what a dead provider looks like from behind its own front
    "TARGET_MODEL_MISSING": Outcome.FAILED,
    "PROVIDER_AUTH_FAILED": Outcome.FAILED,
    "PROVIDER_OUT_OF_CREDIT": Outcome.FAILED,
    "ALL_TARGETS_FAILED": Outcome.FAILED,  # of a router that is a target; it may have failed for this request alone
    "STREAM_INTERRUPTED": Outcome.FAILED,
    "INTERNAL": Outcome.FAILED,
    "OUTPUT_INVALID": Outcome.REFUSED,
    "PROVIDER_RATE_LIMITED": Outcome.AWAY,
    "QUEUE_FULL": Outcome.AWAY,
    "TARGET_BUSY": Outcome.AWAY,
    "TARGET_DRAINING": Outcome.AWAY,
    "BREAKER_OPEN": Outcome.AWAY,
    "REQUEST_INVALID": Outcome.NEUTRAL,
    "CONTEXT_LENGTH_EXCEEDED": Outcome.NEUTRAL,
    "CONSTRAINT_UNSUPPORTED": Outcome.NEUTRAL,
    "SCHEMA_INVALID": Outcome.NEUTRAL,
    "KEY_UNKNOWN": Outcome.NEUTRAL,
    "SCOPE_MISSING": Outcome.NEUTRAL,
    "POLICY_BLOCKED": Outcome.NEUTRAL,
    "MODEL_UNKNOWN": Outcome.NEUTRAL,
    "ADAPTER_UNKNOWN": Outcome.NEUTRAL,
    "REQUEST_ID_IN_USE": Outcome.NEUTRAL,
    "REQUEST_ID_REUSED": Outcome.NEUTRAL,
    "TARGET_UNKNOWN": Outcome.NEUTRAL,
    "NO_COMPLIANT_TARGET": Outcome.NEUTRAL,
    "CONTENT_FILTERED": Outcome.NEUTRAL,
    "TENANT_QUOTA": Outcome.NEUTRAL,
    "COST_CAP": Outcome.NEUTRAL,
    "VALIDATOR_UNAVAILABLE": Outcome.NEUTRAL,
    "EXPIRED": Outcome.NEUTRAL,
    "DEADLINE_UNMEETABLE": Outcome.NEUTRAL,
    "CANCELLED": Outcome.NEUTRAL,
}
"""Reason of a failed attempt -> what it says. Complete: a test compares it with the error tree."""
