"""Facts: all that policy may look at. Read once per request; the prompt itself is not among them."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from spillway.egress import UNRESOLVED, DataPolicy
from spillway.record import record
from spillway.tokens import MOST_IMAGE_TOKENS, estimated

from .budget import Purse
from .inspection import Inspection


class Category(IntEnum):
    """How much is at stake. Numbers as in the contract."""

    UNSPECIFIED = 0
    ROUTINE = 1
    COMPLEX = 2
    SAFETY_CRITICAL = 3


class Delivery(IntEnum):
    """When an answer becomes the caller's. Numbers as in the contract."""

    UNSPECIFIED = 0
    LIVE = 1
    PROBED = 2
    COMMITTED = 3


class Validation(IntEnum):
    """Whether an answer is judged. Numbers as in the contract."""

    UNSPECIFIED = 0
    OFF = 1
    PREFERRED = 2
    REQUIRED = 3


class StrategyName(IntEnum):
    """How a plan is carried out. Numbers as in the contract."""

    UNSPECIFIED = 0
    DIRECT = 1
    CASCADE = 2
    HEDGE = 3
    DRAFT_REFINE = 4
    DRAFT_VERIFY = 5


class ContextName(IntEnum):
    """What is done when a prompt fits no target. Numbers as in the contract."""

    UNSPECIFIED = 0
    REFUSE = 1
    LARGER = 2
    SLIDE = 3
    SUMMARIZE = 4
    PASSAGES = 5
    MAP_REDUCE = 6


TEMPLATE_TOKENS = 64
"""Allowance for what a chat template adds to a prompt, in tokens."""


@record
class Facts:
    """What the router reads off a request to decide."""

    tenant: str = ""
    model: str = ""
    category: Category = Category.UNSPECIFIED
    task: str = ""
    labels: frozenset[str] = frozenset()
    priority: str = ""
    session: str = ""
    """Requests of one session share a prefix, as a rule."""
    data_policy: DataPolicy = UNRESOLVED
    needs: frozenset[str] = frozenset()
    """Capabilities a target must have."""
    json: bool = False
    """The answer is to be JSON."""
    chat: bool = True
    """The prompt is a conversation."""
    constrained: bool = False
    """The answer has a form it must keep, or may call tools."""
    prompt_bytes: int = 0
    images: int = 0
    counted_tokens: int | None = None
    """Tokens of the prompt by a local target's own tokenizer, where it was asked."""
    max_tokens: int | None = None
    choices: int = 1
    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    max_cost_nano_usd: int | None = None
    failover: bool = True
    delivery: Delivery = Delivery.UNSPECIFIED
    records: bool = False
    """The caller wants records as they are accepted."""
    validation: Validation = Validation.UNSPECIFIED
    judgements: frozenset[str] = frozenset()
    """Judgement policies the caller wants the answer held to."""
    aside: bool = False
    """It is made on the way to an answer, and is none: nothing judges it."""
    strategy: StrategyName = StrategyName.UNSPECIFIED
    confidence_threshold: float | None = None
    samples: int | None = None
    """Answers that a cascade takes of a target, as the caller says; 1 where samples say nothing."""
    context: ContextName = ContextName.UNSPECIFIED
    inspect: bool = False
    """The caller wants the prompt inspected."""
    inspection: Inspection | None = None
    """What came of it, once the prompt was inspected."""
    redact: bool = False
    """The caller wants what leaves redacted."""
    declared: DataPolicy | None = None
    """The data policy in force as far as people have stated it; None where nothing that was found has raised it."""
    purse: Purse | None = None
    """What is left of the tenant's budget, once that was looked at."""
    beside_tokens: int = 0
    """Tokens of the other inputs that are embedded beside the longest: they cost, and need no room beside it."""
    policy_because: str = ""
    """What chose the policy, once the rulebook has."""

    @property
    def embeds(self) -> bool:
        """Vectors are asked for, not an answer. The prompt is then the longest input."""
        return "embeddings" in self.needs

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt: counted, else estimated."""
        if self.counted_tokens is not None:
            return self.counted_tokens
        return estimated(self.prompt_bytes, self.images)

    @property
    def prompt_tokens_at_most(self) -> int:
        """Tokens the prompt cannot exceed: bytes bound the tokens of a byte-level tokenizer from above.

        Images have as many as a model makes of them: each is taken for the most that is known.
        """
        if self.counted_tokens is not None:
            return self.counted_tokens
        return self.prompt_bytes + self.images * MOST_IMAGE_TOKENS + TEMPLATE_TOKENS

    def counted(self, tokens: int) -> Facts:
        """The same facts, the prompt counted."""
        return replace(self, counted_tokens=tokens)
