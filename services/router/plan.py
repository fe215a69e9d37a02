"""A plan: what the router decided, with the reason for each target taken or left out."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.egress import DataPolicy, Residency

from .facts import Delivery, Facts, StrategyName, Validation
from .target import Target


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target as one request sees it. `left_out_by` is the rule that left it out, empty if it was taken."""

    target: Target
    reasons: tuple[str, ...]
    score: float = 0.0
    left_out_by: str = ""
    estimated_cost_nano_usd: int | None = None

    @property
    def taken(self) -> bool:
        return not self.left_out_by

    def __repr__(self) -> str:
        return f"<Candidate {self.target.name} {f'{self.score:g}' if self.taken else 'out: ' + self.left_out_by}>"


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient dispatch is. Fields as in `policy_settings.PolicySettings`."""

    constrained_retries: int = 1
    first_token_share: float = 0.5
    idle_s: float = 30.0
    probe_tokens: int = 8
    confidence_threshold: float = 0.8
    hedge_after_s: float = 1.0
    max_attempts: int = 8


PATIENCE = Limits()
"""The defaults."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Targets in the order they are tried, and how their answer is delivered and judged."""

    facts: Facts
    taken: tuple[Candidate, ...]
    left_out: tuple[Candidate, ...]
    delivery: Delivery
    validation: Validation
    strategy: StrategyName
    limits: Limits
    policy: str
    """Name of the policy that decided."""
    policy_revision: str
    reason: str
    advice: bool = False
    """Nothing may answer but targets with an open breaker, so these are tried all the same."""
    stays: bool = False
    """The content is too sensitive to leave, wherever to."""

    @property
    def data_policy(self) -> DataPolicy:
        """What binds the content beyond this router, which trusts other places up to a limit that they do not know."""
        found = self.facts.data_policy
        return found.tightened(DataPolicy(Residency.LOCAL_ONLY)) if self.stays else found
