"""Confidence in an answer, from the probabilities its model gave the tokens it chose.

The score is the geometric mean of the token probabilities, exp(mean log p), between 0 and 1: 1 means the model never
wavered. It finds copying and arithmetic slips and foreign prompts; it does not find a confident misreading. Of several
choices the least confident counts. A target that tells no log probabilities leaves the score unknown, which is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from spillway import v1


def score(logprobs: Iterable[float]) -> float | None:
    """The geometric mean of probabilities given as natural logarithms; None for none."""
    values = list(logprobs)
    return math.exp(math.fsum(values) / len(values)) if values else None


def confidence(response: v1.GenerateResponse) -> float | None:
    """The score of a whole answer, None where it is unknown."""
    scores = [score(token.logprob for token in choice.content.logprobs) for choice in response.choices]
    known = [found for found in scores if found is not None]
    return min(known) if known and len(known) == len(scores) else None


def with_logprobs(spec: v1.GenerationSpec) -> v1.GenerationSpec:
    """The same request, log probabilities asked for."""
    asked = v1.GenerationSpec()
    asked.CopyFrom(spec)
    asked.logprobs.SetInParent()
    return asked


def without_logprobs(response: v1.GenerateResponse) -> None:
    """Take out of an answer what only we asked for."""
    for choice in response.choices:
        del choice.content.logprobs[:]
