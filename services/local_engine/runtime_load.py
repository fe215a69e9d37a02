"""What runs at a runtime: what it says, held against what was sent to it from here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jiter

from spillway import v1

_GAUGE = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)(?:\{[^}]*\})? (\S+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Told:
    """What the runtime said, and how many of ours it had then. None: it does not say."""

    running: int
    waiting: int | None
    kv_cache_usage: float | None
    ours: int


def from_vllm(metrics: bytes, ours: int) -> Told | None:
    """Read vLLM's metrics; its engines are summed up, their caches averaged."""
    found: dict[str, list[float]] = {}
    for name, value in _GAUGE.findall(metrics.decode(errors="replace")):
        found.setdefault(name, []).append(float(value))
    if "num_requests_running" not in found:
        return None
    usage = found.get("kv_cache_usage_perc")
    return Told(
        round(sum(found["num_requests_running"])),
        round(sum(found.get("num_requests_waiting", ()))),
        sum(usage) / len(usage) if usage else None,
        ours,
    )


def from_slots(body: bytes, ours: int) -> Told | None:
    """Read llama.cpp's slots."""
    try:
        slots: Iterable[Mapping[str, Any]] = jiter.from_json(body)
        return Told(sum(bool(slot["is_processing"]) for slot in slots), None, None, ours)
    except (ValueError, TypeError, KeyError):
        return None


def load(
    state: v1.EngineState.ValueType, ours: int, told: Told | None, *, sequence: int, age_s: float | None
) -> v1.Load:
    """Return the load now: what others have there as it was told, and ours as it is."""
    found = v1.Load(state=state, sequence=sequence)
    if age_s is not None:
        found.age_ms = age_s * 1000
    if told is None:
        found.running = ours
        return found
    others = max(0, told.running + (told.waiting or 0) - told.ours)
    waiting = min(told.waiting or 0, ours + others)
    found.running = ours + others - waiting
    if told.waiting is not None:
        found.waiting = waiting
    if told.kv_cache_usage is not None:
        found.kv_cache_usage = told.kv_cache_usage
    return found
