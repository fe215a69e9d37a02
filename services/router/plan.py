"""A plan: what the router decided, with the reason for each target taken or left out."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.egress import DataPolicy, Residency
from spillway.record import record

from .budget import Budget
from .facts import ContextName, Delivery, Facts, StrategyName, Validation
from .redaction import AS_IT_IS, Redaction
from .target import Target


@record
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
    max_retries_per_target: int = 1
    first_token_share: float = 0.4
    idle_s: float = 30.0
    probe_tokens: int = 8
    confidence_threshold: float = 0.8
    samples: int = 1
    hedge_after_s: float = 1.0
    max_attempts: int = 8
    continue_on: str = "same_weights"


PATIENCE = Limits()
"""The defaults."""


@dataclass(frozen=True, slots=True)
class ContextLimits:
    """How a prompt that does not fit is condensed. Fields as in `policy_settings.PolicySettings`."""

    keep_last_turns: int = 4
    summary_tokens: int = 256
    chunk_tokens: int = 1024
    max_chunks: int = 32


CONDENSED = ContextLimits()
"""The defaults."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a prompt is made to fit: places in it and tokens, never its text."""

    policy: ContextName
    tokens_before: int
    tokens_after: int
    """Of the prompt that is answered, `reserved` for what is still to be written of it included."""
    dropped: tuple[int, ...] = ()
    """Places of messages that are left out."""
    dropped_tokens: int = 0
    summarized: tuple[int, ...] = ()
    """Places of messages in whose place a summary stands."""
    summarized_tokens: int = 0
    document: tuple[int, int] | None = None
    """Message and part of the text that is condensed."""
    kept_spans: tuple[tuple[int, int], ...] = ()
    """Passages of the document that are kept, in characters."""
    dropped_passages: int = 0
    chunks: tuple[tuple[int, int], ...] = ()
    """Parts that are read one by one: of the document, or of the messages to be summarized, as one text."""
    reserved: int = 0
    each: int = 0
    """Tokens of one summary or note."""

    def __repr__(self) -> str:
        return f"<Fit {self.policy.name.lower()} {self.tokens_before} -> {self.tokens_after} tokens>"


@record
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
    when_all_open: str = "try"
    opens_in_s: float | None = None
    """Of a plan that took nothing: seconds until the first of the breakers that are open may let a request through."""
    context: ContextName = ContextName.LARGER
    fit: Fit | None = None
    """How the prompt is made to fit, where it does not."""
    readers: Plan | None = None
    """Who makes the summary, or reads the parts of the document."""
    would_help: tuple[ContextName, ...] = ()
    """Of a plan that took nothing: context policies under which the prompt would fit."""
    budget: Budget | None = None
    """The tenant's, against which every attempt counts that costs something."""
    judge: Candidate | None = None
    """The target that says whether another's answer is right, where one may."""
    judgements: tuple[str, ...] = ()
    """Judgement policies of the validator that the answer is held to."""
    mends: bool = True
    """Broken JSON in the answer may be mended."""
    stays: bool = False
    """The content is too sensitive to leave as it is, wherever to."""
    records: bool = False
    """Of a COMMITTED stream records are given as they are accepted."""
    redaction: Redaction = AS_IT_IS
    """What is done to the content where it leaves the site."""
    leaving: DataPolicy | None = None
    """What binds it then, where it is redacted."""

    @property
    def spends(self) -> bool:
        """Whether what is left of the tenant's budget may change the plan, and is not known yet."""
        budget = self.budget
        if budget is None or self.facts.purse is not None:
            return False
        # What does not fit may be made to, and a breaker may close.
        among = self.taken or [out for out in self.left_out if out.left_out_by in ("context", "breaker")]
        return any(budget.counts(candidate.target, candidate.estimated_cost_nano_usd) for candidate in among)

    def redacts(self, target: Target) -> bool:
        """Whether `target` gets placeholders in the place of what is sensitive."""
        return not target.local and bool(self.redaction.kinds)

    def data_policy_at(self, target: Target) -> DataPolicy:
        """What binds the content that `target` gets, and everybody behind it."""
        return self.leaving if self.leaving is not None and self.redacts(target) else self.data_policy

    @property
    def data_policy(self) -> DataPolicy:
        """What binds the content, as it is, beyond this router, whose limits of trust others do not know."""
        found = self.facts.data_policy
        return found.tightened(DataPolicy(Residency.LOCAL_ONLY)) if self.stays else found
