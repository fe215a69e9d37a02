"""What a request gets by its caller's key where it says nothing, as the file of keys states it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from spillway import v1
from spillway.egress import DataPolicy, Residency, Sensitivity
from spillway.embedding import Spec
from spillway.settings import Section

_ENUMS: dict[str, Any] = {
    "category": v1.Category,
    "task": v1.Task,
    "failover": v1.Failover,
    "validation": v1.Validation,
    "strategy": v1.Strategy,
    "cache": v1.CacheMode,
    "context_policy": v1.ContextPolicy,
}
"""Field of the routing policy, by the same name here -> its words."""


class Defaults(Section):
    """Defaults of one key. The caller's own words win, but for content and cost the tighter of both holds."""

    model: str = Field("", description="the model, target or alias asked for")
    priority: Literal["interactive", "background"] | None = None
    category: Literal["routine", "complex", "safety_critical"] | None = None
    task: Literal["chat", "classify", "tag", "extract", "summarize", "translate", "write", "code", "reason"] | None = (
        None
    )
    labels: frozenset[str] = Field(frozenset(), description="added to the caller's: a rule may ask for one")
    delivery: Literal["live", "probed", "committed"] | None = None
    validation: Literal["off", "preferred", "required"] | None = None
    strategy: Literal["direct", "cascade", "hedge", "draft_refine", "draft_verify"] | None = None
    failover: Literal["next", "off"] | None = None
    cache: Literal["off", "use", "refresh"] | None = None
    context_policy: Literal["refuse", "larger", "slide", "summarize", "passages", "map_reduce"] | None = None
    residency: Literal["any", "regions", "local_only"] | None = Field(None, description="the tightest holds")
    regions: frozenset[str] = Field(frozenset(), description="with residency `regions`: those that both name")
    sensitivity: Literal["public", "internal", "confidential", "restricted"] | None = Field(
        None, description="the highest holds"
    )
    max_retention_days: int | None = Field(None, ge=0, le=1_000_000, description="where it goes; the lowest holds")
    denied_targets: frozenset[str] = Field(frozenset(), description="besides those that the caller denies")
    judgements: frozenset[str] = Field(frozenset(), description="besides those that the caller names")
    max_cost_usd: float | None = Field(None, ge=0, le=1e9, description="of one target's answer; the lowest holds")

    @model_validator(mode="after")
    def _regions_bind(self) -> Defaults:
        if self.regions and self.residency not in (None, "regions"):
            raise ValueError(f"regions do not go with residency {self.residency}")
        return self

    def fill(self, spec: Spec, policy: v1.RoutingPolicy) -> None:
        """Write into a request what it does not say itself. Doing it again changes nothing.

        The model is one that generates: it says nothing about an embedding.
        """
        if self is NONE:
            return
        if isinstance(spec, v1.GenerationSpec):
            spec.model = spec.model or self.model
        if self.priority is not None and not spec.priority:
            spec.priority = v1.Priority.Value(f"PRIORITY_{self.priority.upper()}")
        for field, words in _ENUMS.items():
            word = getattr(self, field)
            if word is not None and not getattr(policy, field):
                setattr(policy, field, _number(words, word))
        if self.delivery is not None and not policy.delivery.mode and not policy.delivery.records:
            policy.delivery.mode = _number(v1.DeliveryMode, self.delivery)
        _add(policy.labels, self.labels)
        self.bind(policy)

    def bind(self, policy: v1.RoutingPolicy) -> None:
        """Write into a request what holds whoever sends it with this key: what concerns content and cost."""
        if self is NONE:
            return
        _add(policy.denied_targets, self.denied_targets)
        _add(policy.judgements, self.judgements)
        if self.max_cost_usd is not None:
            cap = round(self.max_cost_usd * 1e9)
            asked = policy.max_cost_nano_usd if policy.HasField("max_cost_nano_usd") else cap
            policy.max_cost_nano_usd = min(cap, asked)
        self._tighten(policy)

    def _tighten(self, policy: v1.RoutingPolicy) -> None:
        residency = self.residency or ("regions" if self.regions else "unspecified")
        own = DataPolicy(
            Residency[residency.upper()],
            self.regions,
            Sensitivity[(self.sensitivity or "unspecified").upper()],
            self.max_retention_days,
        )
        if own == DataPolicy():
            return
        held = DataPolicy.read(policy.data_policy).tightened(own)
        policy.data_policy.residency = v1.Residency.ValueType(held.residency)
        policy.data_policy.regions[:] = sorted(held.regions)
        policy.data_policy.sensitivity = v1.Sensitivity.ValueType(held.sensitivity)
        if held.max_retention_days is not None:
            policy.data_policy.max_retention_days = held.max_retention_days


NONE = Defaults()


def _number(words: Any, word: str) -> Any:
    first = words.keys()[0]
    return words.Value(first.removesuffix("UNSPECIFIED") + word.upper())


def _add(there: Any, words: frozenset[str]) -> None:
    there.extend(sorted(words - set(there)))
