"""Counting: whether a prompt is to be counted exactly before it is decided on. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .facts import Facts
from .policy import Policy
from .target import Target


def worth_counting(facts: Facts, targets: Sequence[Target], policy: Policy) -> bool:
    """Whether an exact token count could change the decision."""
    if facts.counted_tokens is not None:
        return False
    bounds = [
        target.context_window
        for target in targets
        if target.local and target.context_window is not None and target.serves(embeds=facts.embeds)
    ]
    if not facts.embeds:
        bounds.append(policy.local_context_limit)
    return bool(bounds) and facts.prompt_tokens_at_most >= min(bounds)
