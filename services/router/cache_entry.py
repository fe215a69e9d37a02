"""An entry: an answer as it is kept, and as it is told to somebody it was not made for."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from spillway import v1

_HEAD = struct.Struct(">16sd")  # check sum, seconds since the epoch
_SUM_BYTES = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept answer and its age in seconds."""

    answer: v1.GenerateResponse
    age_s: float

    def __repr__(self) -> str:
        return f"<Entry of {self.answer.started.target} {self.age_s:.3g} s old>"


def encode(key: str, answer: v1.GenerateResponse, now: float) -> bytes:
    """Return `answer` as it is kept under `key`: without what belongs to the request it was made for.

    `now` is in seconds since the epoch: entries outlive their router and are read by others.
    """
    kept = v1.GenerateResponse()
    kept.CopyFrom(answer)
    kept.started.ClearField("request_id")
    kept.usage.ClearField("attempts")
    kept.usage.ClearField("timings")
    body = kept.SerializeToString()
    return _HEAD.pack(_check_sum(key, now, body), now) + body


def decode(key: str, value: bytes, now: float, ttl_s: float) -> Entry | None:
    """Return the entry that was kept under `key`; None if it cannot be read, is another one's, or is `ttl_s` old."""
    if len(value) < _HEAD.size:
        return None
    told, at = _HEAD.unpack_from(value)
    body = value[_HEAD.size :]
    if told != _check_sum(key, at, body):
        return None
    age_s = max(0.0, now - at)  # clocks of two routers differ
    if age_s >= ttl_s:
        return None
    try:
        return Entry(v1.GenerateResponse.FromString(body), age_s)
    except DecodeError:
        return None


def _check_sum(key: str, at: float, body: bytes) -> bytes:
    found = hashlib.blake2b(key.encode(), digest_size=_SUM_BYTES)
    found.update(struct.pack(">d", at))
    found.update(body)
    return found.digest()


def retold(
    event: v1.GenerationEvent, request_id: str, *, age_s: float, shared: bool, took_ms: float
) -> v1.GenerationEvent:
    """Return `event` as a request is told it that the answer was not made for: its own id, its own cost."""
    told = v1.GenerationEvent()
    if event.HasField("started"):
        told.CopyFrom(event)
        told.started.request_id = request_id
        how = "shared with an identical request" if shared else f"cached {age_s:.0f} s ago"
        told.started.route_reason = f"{how}: {event.started.route_reason}"
    elif event.HasField("usage"):
        made = event.usage
        told.sequence = event.sequence
        usage = told.usage
        usage.prompt_tokens = usage.completion_tokens = usage.cost_nano_usd = 0
        usage.timings.total_ms = took_ms
        if made.HasField("verdict"):
            usage.verdict.CopyFrom(made.verdict)
        if made.HasField("context"):
            usage.context.CopyFrom(made.context)
        hit = usage.cache
        hit.age_ms, hit.shared = round(age_s * 1000), shared
        if made.HasField("prompt_tokens"):
            hit.saved_prompt_tokens = made.prompt_tokens
        if made.HasField("completion_tokens"):
            hit.saved_completion_tokens = made.completion_tokens
        if made.HasField("cost_nano_usd"):
            hit.saved_nano_usd = made.cost_nano_usd
    else:
        return event
    return told
