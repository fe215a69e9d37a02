"""Audit records: what is said of one call. Never content, and no word of the provider's but names and numbers."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from services.cloud_proxy.attempt import ANSWERED, Attempt
from services.cloud_proxy.route import Route
from spillway import v1
from spillway.audit import OUTCOME, REFUSED, Record
from spillway.egress import DataPolicy


def intent(attempt: Attempt, at: datetime) -> Record:
    """Who sends what to where, before it leaves."""
    return {
        "id": attempt.id,
        "at": _written(at),
        **_about(attempt.route, attempt.stamp, attempt.request_id),
        "bytes": attempt.leaving.size,
        "estimated_prompt_tokens": attempt.leaving.prompt_tokens,
    }


def outcome(attempt: Attempt, at: datetime, now: float) -> Record:
    """What became of it; `now` is on the clock of the attempt. Times are in milliseconds, money in 1e-9 USD."""
    exchange, tariff = attempt.exchange, attempt.route.tariff
    usage = exchange.usage or v1.Usage()
    told = {
        name: getattr(usage, name)
        for name in ("cached_prompt_tokens", "cache_write_prompt_tokens", "reasoning_tokens")
        if usage.HasField(name)
    }
    if attempt.outcome == ANSWERED:
        told["cost_nano_usd"] = attempt.cost()
    if exchange.sent and (attempt.outcome != ANSWERED or not usage.HasField("completion_tokens")):
        seen, billed = attempt.seen(), attempt.bill()
        told["counted_prompt_tokens"], told["counted_completion_tokens"] = seen.prompt, seen.completion
        told["counted_nano_usd"], told["billed_at_most_nano_usd"] = billed.counted, billed.at_most
        told["billing_on_cancel"] = attempt.route.billing_on_cancel
    return {
        **intent(attempt, at),
        "phase": OUTCOME,
        "outcome": attempt.outcome,
        "left": exchange.sent,
        "bytes": exchange.sent_bytes,
        "status": exchange.status,
        "answered_by": exchange.model,
        "provider_request_id": exchange.provider_request_id,
        "prompt_tokens": usage.prompt_tokens if usage.HasField("prompt_tokens") else None,
        "completion_tokens": usage.completion_tokens if usage.HasField("completion_tokens") else None,
        **told,
        "price_source": tariff.source,
        "price_date": str(tariff.as_of or ""),
        "first_ms": None if attempt.first is None else round((attempt.first - attempt.began) * 1000, 1),
        "ms": round((now - attempt.began) * 1000, 1),
    }


def refusal(
    route: Route, stamp: v1.PolicyStamp | None, request_id: str, why: str, at: datetime, *, phase: str = REFUSED
) -> Record:
    """A call that the gate did not let through, or that a limit held: nothing left."""
    return {
        "id": uuid.uuid4().hex,
        "phase": phase,
        "at": _written(at),
        **_about(route, stamp or v1.PolicyStamp(), request_id),
        "outcome": why,
        "left": False,
        "bytes": 0,
    }


def _about(route: Route, stamp: v1.PolicyStamp, request_id: str) -> dict[str, Any]:
    policy = DataPolicy.read(stamp.data_policy)
    return {
        "tenant": stamp.tenant,
        "router": stamp.router,
        "request_id": request_id,
        "attempt": stamp.attempt,
        "policy_revision": stamp.policy_revision,
        "residency": policy.residency.name.lower(),
        "regions": sorted(policy.regions),
        "sensitivity": policy.sensitivity.name.lower(),
        "max_retention_days": policy.max_retention_days,
        "redacted": sorted(stamp.redacted),
        "target": route.name,
        "provider": route.provider.name,
        "model": route.model.name,
        "region": route.region,
        "retention_days": route.retention_days,
        "simulated": route.provider.simulated,
    }


def _written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")
