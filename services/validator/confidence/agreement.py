"""Whether other answers to the same question say the same."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from services.validator.confidence.question import Kind
from services.validator.extraction import candidates

SHORT_WORDS = 8
"""Answers of at most so many words agree or do not; longer ones agree in part."""
_MAX_DEPTH = 128
_WORD = re.compile(r"[^\W_]++|[-+.,]?\d")


def agreement(answer: str, others: Sequence[str], kind: Kind) -> float | None:
    """Return the share of `others` that say what `answer` says, 0 to 1; None where there are none.

    JSON agrees by value: the first that stands in the text. Short answers agree if they have the same words, whatever
    the case and the punctuation; prose by the words it shares, as F1 of the two bags of words (the measure of SQuAD).
    """
    if not others:
        return None
    if kind == "json":
        wanted = _value(answer)
        return sum(wanted is not None and _value(other) == wanted for other in others) / len(others)
    words = _words(answer)
    return sum(_alike(words, _words(other)) for other in others) / len(others)


def _value(text: str) -> str | None:
    for candidate in candidates(text, max_depth=_MAX_DEPTH):
        if not candidate.problem:
            return json.dumps(_plain(candidate.value), sort_keys=True)
    return None


def _plain(value: Any) -> Any:
    """The same value with 2.0 written as 2."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _alike(one: list[str], other: list[str]) -> float:
    if max(len(one), len(other)) <= SHORT_WORDS:
        return float(one == other)
    shared = (Counter(one) & Counter(other)).total()
    return 2 * shared / (len(one) + len(other))
