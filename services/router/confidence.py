"""Confidence in an answer: how likely it is taken to be right, and who says so.

The validator's ScoreConfidence says it where there is one. Without it the score is the geometric mean of the token
probabilities, exp(mean log p), between 0 and 1: 1 means the model never wavered. It finds copying and arithmetic slips
and foreign prompts; it does not find a confident misreading. Of several choices the least confident counts. A target
that tells no log probabilities leaves that score unknown, which is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from spillway import v1

VALIDATOR, PROBABILITIES, NOBODY = "validator", "probabilities", "nobody"
"""Who says how confident one may be."""
TEMPERATURE = 0.8
"""Of a sample whose caller wants none above 0: that of the samples to which the validator's own model is fitted."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """How likely an answer is taken to be right, 0 to 1. `score` None: that is not known."""

    score: float | None
    by: str = PROBABILITIES
    away: str = ""
    """Why the validator did not say, where it was asked."""

    @classmethod
    def own(cls, response: v1.GenerateResponse, away: str = "") -> Confidence:
        """What the answer's own probabilities say."""
        score = confidence(response)
        return cls(score, NOBODY if score is None else PROBABILITIES, away)

    @property
    def told(self) -> str:
        """It in words."""
        by = " by its own probabilities" if self.by == PROBABILITIES else ""
        score = "unknown" if self.score is None else f"{self.score:.2f}"
        return f"confidence {score}{by}{f', as {self.away}' if self.away else ''}"

    def against(self, threshold: float) -> str:
        """Why it is not enough, in words."""
        if self.score is None:
            return "unknown"
        # What is below the threshold must not read as if it had reached it.
        found = min(round(self.score, 2), math.floor(threshold * 100 - 1e-6) / 100)
        return f"{found:.2f} < {threshold:.2f}"


def score(logprobs: Iterable[float]) -> float | None:
    """The geometric mean of probabilities given as natural logarithms; None for none."""
    values = list(logprobs)
    return math.exp(math.fsum(values) / len(values)) if values else None


def least(scores: Iterable[float | None]) -> float | None:
    """The score of an answer whose choices have `scores`; None where one of them is unknown."""
    found = list(scores)
    known = [one for one in found if one is not None]
    return min(known) if known and len(known) == len(found) else None


def confidence(response: v1.GenerateResponse) -> float | None:
    """The score of a whole answer by its own probabilities, None where it is unknown."""
    return least(score(token.logprob for token in choice.content.logprobs) for choice in response.choices)


def with_logprobs(spec: v1.GenerationSpec) -> v1.GenerationSpec:
    """The same request, log probabilities asked for: as the caller wants them, else of the chosen tokens alone.

    Alternatives would tell the entropy better. No shipped model is fitted to them, and they are most of the bytes.
    """
    asked = v1.GenerationSpec()
    asked.CopyFrom(spec)
    asked.logprobs.SetInParent()
    return asked


def without_logprobs(response: v1.GenerateResponse) -> None:
    """Take out of an answer what only we asked for."""
    for choice in response.choices:
        del choice.content.logprobs[:]


def sampled(spec: v1.GenerationSpec, number: int) -> v1.GenerationSpec:
    """The request of the sample of that number, from 1: answers to it vary, though the caller's own may not."""
    asked = v1.GenerationSpec()
    asked.CopyFrom(spec)
    if not spec.sampling.temperature > 0:
        asked.sampling.temperature = TEMPERATURE
    if spec.sampling.HasField("seed"):
        asked.sampling.seed = spec.sampling.seed ^ number  # another one, in the same bounds
    return asked
