"""Signs from the probabilities a model gave its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.validator.confidence.question import Token

LEAST = -100.0
"""Natural logarithms below it count as this: targets write a probability of 0 as -inf, -9999 and otherwise."""


@dataclass(frozen=True, slots=True)
class Certainty:
    """Natural logarithms and nats, over some tokens."""

    mean: float
    least: float
    entropy: float


def certainty(tokens: Sequence[Token]) -> Certainty | None:
    """Return what the probabilities of `tokens` say; None for none."""
    if not tokens:
        return None
    logprobs = [_held(token.logprob) for token in tokens]
    entropy = math.fsum(map(_entropy, tokens)) / len(tokens)
    return Certainty(math.fsum(logprobs) / len(logprobs), min(logprobs), entropy)


def _entropy(token: Token) -> float:
    """The entropy of what the model might have said here, in nats; a lower bound.

    What is told of the distribution counts as it is, all the rest as one alternative: splitting it up only adds (the
    grouping property of Shannon's entropy). With the chosen token alone this is the entropy of a coin.
    """
    told = [math.exp(_held(logprob)) for logprob in (token.logprob, *token.alternatives)]
    rest = max(0.0, 1.0 - math.fsum(told))
    return math.fsum(-share * math.log(share) for share in (*told, rest) if share > 0)


def _held(logprob: float) -> float:
    return min(0.0, max(LEAST, logprob))
