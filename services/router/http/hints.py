"""Routing hints: `x-spillway-*` headers read into what a caller asks of the routing."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from spillway import v1
from spillway.rpc import metadata

from .failure import wrong

PREFIX = "x-spillway-"
DEADLINE_MS = "x-spillway-deadline-ms"
SESSION = "x-spillway-session-id"
PRIORITY = "x-spillway-priority"
REPAIR = "x-spillway-repair"


def _words(wrapper: Any) -> dict[str, Any]:
    """Word -> number of a generated enum."""
    members: dict[str, int] = dict(wrapper.items())
    prefix = next(name for name, number in members.items() if number == 0).removesuffix("UNSPECIFIED")
    return {name.removeprefix(prefix).lower(): number for name, number in members.items() if number}


_WORDS: Mapping[str, Mapping[str, Any]] = {
    "x-spillway-category": _words(v1.Category),
    "x-spillway-task": _words(v1.Task),
    "x-spillway-residency": _words(v1.Residency),
    "x-spillway-sensitivity": _words(v1.Sensitivity),
    "x-spillway-failover": _words(v1.Failover),
    "x-spillway-delivery": _words(v1.DeliveryMode),
    "x-spillway-validation": _words(v1.Validation),
    "x-spillway-strategy": _words(v1.Strategy),
    "x-spillway-cache": _words(v1.CacheMode),
    "x-spillway-context-policy": _words(v1.ContextPolicy),
    "x-spillway-inspect": {"true": True, "false": False},
    "x-spillway-records": {"true": True, "false": False},
    "x-spillway-redact": {"true": True, "false": False},
    PRIORITY: _words(v1.Priority),
    REPAIR: _words(v1.Repair),
}
"""Header -> the words it takes."""
LISTS = {
    "x-spillway-labels": "labels",
    "x-spillway-allowed-targets": "allowed_targets",
    "x-spillway-denied-targets": "denied_targets",
    "x-spillway-judgements": "judgements",
}
"""Header -> the field of the routing policy that its comma-separated values become."""
REGIONS, MAX_COST, PROBE = "x-spillway-regions", "x-spillway-max-cost-usd", "x-spillway-probe-tokens"
RETENTION = "x-spillway-max-retention-days"
_ELSEWHERE = frozenset({metadata.REQUEST_ID, metadata.TENANT, metadata.HOP})
KNOWN = frozenset({*_WORDS, *LISTS, REGIONS, RETENTION, MAX_COST, PROBE, DEADLINE_MS, SESSION}) | _ELSEWHERE


def read_policy(headers: Mapping[str, str]) -> v1.RoutingPolicy:
    """Return what the headers ask of the routing.

    Raises RequestInvalid naming the header that is wrong. A misspelt one is: it may have been a restriction.
    """
    policy = v1.RoutingPolicy()
    for name, value in headers.items():
        if name.startswith(PREFIX):
            _read(policy, name, value)
    if policy.data_policy.regions and policy.data_policy.residency != v1.RESIDENCY_LOCAL_ONLY:
        if policy.data_policy.residency == v1.RESIDENCY_ANY:
            raise wrong(REGIONS, "does not go with x-spillway-residency: any")
        policy.data_policy.residency = v1.RESIDENCY_REGIONS  # regions alone would bind nothing
    return policy


def _read(policy: v1.RoutingPolicy, name: str, value: str) -> None:
    if name in LISTS:
        getattr(policy, LISTS[name]).extend(_list(name, value))
    match name:
        case "x-spillway-category":
            policy.category = _word(name, value)
        case "x-spillway-task":
            policy.task = _word(name, value)
        case "x-spillway-residency":
            policy.data_policy.residency = _word(name, value)
        case "x-spillway-sensitivity":
            policy.data_policy.sensitivity = _word(name, value)
        case "x-spillway-failover":
            policy.failover = _word(name, value)
        case "x-spillway-delivery":
            policy.delivery.mode = _word(name, value)
        case "x-spillway-records":
            policy.delivery.records = _word(name, value)
        case "x-spillway-validation":
            policy.validation = _word(name, value)
        case "x-spillway-strategy":
            policy.strategy = _word(name, value)
        case "x-spillway-cache":
            policy.cache = _word(name, value)
        case "x-spillway-context-policy":
            policy.context_policy = _word(name, value)
        case "x-spillway-inspect":
            policy.inspect_input = _word(name, value)
        case "x-spillway-redact":
            policy.redact = _word(name, value)
        case "x-spillway-regions":
            policy.data_policy.regions.extend(_list(name, value))
        case "x-spillway-max-retention-days":
            policy.data_policy.max_retention_days = math.floor(_number(name, value, most=1e6))
        case "x-spillway-max-cost-usd":
            policy.max_cost_nano_usd = round(_number(name, value, most=1e9) * 1e9)
        case "x-spillway-probe-tokens":
            policy.delivery.probe_tokens = round(_number(name, value, most=1e6))
        case _ if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, 1)
            raise wrong(name, "is not known here" + (f"; did you mean {near[0]}?" if near else ""))


def priority(headers: Mapping[str, str]) -> v1.Priority.ValueType:
    """The priority asked for. Raises RequestInvalid for a word that is none."""
    found: v1.Priority.ValueType = v1.PRIORITY_UNSPECIFIED
    if PRIORITY in headers:
        found = _word(PRIORITY, headers[PRIORITY])
    return found


def repair(headers: Mapping[str, str], spec: v1.GenerationSpec) -> None:
    """Write into `spec` whether broken JSON may be mended. Raises RequestInvalid where no JSON is asked for."""
    if REPAIR in headers:
        word = _word(REPAIR, headers[REPAIR])
        if not spec.HasField("constraint"):
            raise wrong(REPAIR, "goes with a response_format of JSON")
        spec.constraint.repair = word


def deadline_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the caller gives, or None if it does not say. Raises RequestInvalid unless they are above 0."""
    if DEADLINE_MS not in headers:
        return None
    milliseconds = _number(DEADLINE_MS, headers[DEADLINE_MS], most=86_400_000)
    if not milliseconds:
        raise wrong(DEADLINE_MS, "must be above 0")
    return milliseconds / 1000


def _word(name: str, value: str) -> Any:
    words = _WORDS[name]
    found = words.get(value.strip().lower().replace("-", "_"))
    if found is None:
        raise wrong(name, f"{value[:50]!r} is not one of {', '.join(words)}")
    return found


def _list(name: str, value: str) -> list[str]:
    found = [word.strip() for word in value.split(",")]
    if not all(found):
        raise wrong(name, "has an empty entry; it takes names with commas between them")
    return found


def _number(name: str, value: str, *, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise wrong(name, f"{value[:50]!r} is not a number from 0 to {most:g}")
    return number
