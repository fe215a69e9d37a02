"""What confidence is asked of: an answer, what was asked, and other answers to the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.validator.document import read

Kind = Literal["json", "choices", "text"]
"""What the answer had to be. An expression or nothing is text."""
_MAX_DEPTH = 200


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


def property_names(schema: str) -> frozenset[str]:
    """Return the names of `properties` anywhere in a JSON schema. Raises NotJson."""
    found: set[str] = set()
    left = [read(schema, max_depth=_MAX_DEPTH)]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            properties = value.get("properties")
            found.update(properties if isinstance(properties, dict) else ())
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return frozenset(found)
