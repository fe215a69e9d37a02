"""Eligibility: may this request use the cache, and may this answer be kept? Pure; the reason is told."""

from __future__ import annotations

from dataclasses import dataclass

from spillway import v1
from spillway.egress import DataPolicy, Residency, Sensitivity

from .cache_settings import CacheSettings
from .judge import judged
from .plan import Plan

_WHOLE = frozenset(
    {
        v1.FINISH_REASON_STOP,
        v1.FINISH_REASON_STOP_SEQUENCE,
        v1.FINISH_REASON_LENGTH,  # max_tokens is in the key
        v1.FINISH_REASON_TOOL_CALLS,
    }
)


@dataclass(frozen=True, slots=True)
class Terms:
    """How one request uses the cache. `off` is why it does not, empty if it does."""

    off: str = ""
    ttl_s: float = 0.0
    """Age at which an answer is too old, in seconds."""
    refresh: bool = False
    """Nothing is looked up; the new answer replaces the one that is kept."""

    def __repr__(self) -> str:
        return f"<Terms {f'off: {self.off}' if self.off else 'refresh' if self.refresh else 'use'} {self.ttl_s:g} s>"


def terms(
    spec: v1.GenerationSpec,
    asked: v1.CacheMode.ValueType,
    data_policy: DataPolicy,
    *,
    stamped: bool,
    settings: CacheSettings,
) -> Terms:
    """Decide on a request whose caller asks for mode `asked`. `stamped`: it came from another router."""
    if asked == v1.CACHE_MODE_OFF:
        return Terms("the request says so")
    if stamped:
        # That router has the caller's wish, which does not travel, and a cache of its own.
        return Terms("the request came from another router")
    explicit = asked != v1.CACHE_MODE_UNSPECIFIED
    ttl_s: float | None = settings.ttl_s
    if data_policy.residency is Residency.LOCAL_ONLY or data_policy.sensitivity > Sensitivity.INTERNAL:
        ttl_s = settings.sensitive_ttl_s
        if ttl_s is None:
            return Terms("its content is sensitive")
        if not explicit:
            return Terms("its content is sensitive and it does not ask")
    if not explicit:
        if not settings.by_default:
            return Terms("it does not ask")
        if why := _varies(spec):
            return Terms(f"{why} and it does not ask")
    assert ttl_s is not None
    return Terms("", ttl_s, asked == v1.CACHE_MODE_REFRESH)


def _varies(spec: v1.GenerationSpec) -> str:
    """Why two answers to `spec` may rightly differ; empty if they should not."""
    if not spec.sampling.HasField("temperature"):
        return "its temperature is the target's own"
    if spec.sampling.temperature > 0:
        return "its temperature is above 0"
    if spec.sampling.n > 1:
        return "it wants several choices"
    if spec.tools or spec.HasField("tool_choice"):
        return "it has tools"
    if any(part.image.url for message in spec.chat.messages for part in message.parts):
        return "what is behind an image's URL may change"
    return ""


def objection(spec: v1.GenerationSpec, plan: Plan, answer: v1.GenerateResponse, *, rerouted: bool) -> str:
    """Why `answer` is not kept, empty if it is. `rerouted`: it passed from one target to another on its way."""
    finishes = {choice.finish.reason for choice in answer.choices}
    if not finishes or not finishes <= _WHOLE:
        words = sorted(v1.FinishReason.Name(reason) for reason in finishes - _WHOLE)
        return f"it ended by {', '.join(words) or 'nothing'}"
    if judged(spec, plan) and not answer.usage.HasField("verdict"):
        return "it was to be judged and was not"  # a LIVE stream, or the validator was away
    if answer.started.route_reason.startswith("degraded"):
        return "it is degraded"  # or it would outlive what degraded it
    if rerouted:
        return "it changed its route on the way"
    return ""
