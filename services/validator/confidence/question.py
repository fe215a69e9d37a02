"""What confidence is asked of: an answer, what was asked, and other answers to the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["json", "choices", "text"]
"""What the answer had to be. An expression or nothing is text."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer, the natural logarithm of its probability, and those of the alternatives that were told."""

    text: str
    logprob: float
    alternatives: tuple[float, ...] = ()
    """Of other tokens than this one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. No tokens: their probabilities are unknown."""

    text: str
    tokens: tuple[Token, ...] = ()
    truncated: bool = False
    """It ended because it was full, not because it was done."""


@dataclass(frozen=True, slots=True)
class Question:
    """How likely is `answer` right? `task` is in lower case, as policy writes it; empty where unknown."""

    answer: Sample
    target: str = ""
    task: str = ""
    prompt: str = ""
    """All that was said before the answer; empty: unknown."""
    others: tuple[Sample, ...] = ()
    judge: float | None = None
    kind: Kind = "text"
    names: frozenset[str] = frozenset()
    """Property names that a schema fixes."""
