"""A sensitive piece of a text, how sure it is, and which of several that overlap is kept."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property


class Certainty(IntEnum):
    """What speaks for a span."""

    CONTEXT = 1
    """The words before it: its form alone is that of many numbers."""
    FORM = 2
    """A form that little else has."""
    CHECKED = 3
    """A checksum, or the mark an issuer puts on its own keys."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to before `end`, in Unicode code points; `rule` is the kind and what it goes by."""

    start: int
    end: int
    kind: str
    rule: str
    certainty: Certainty


Detector = Callable[[str], Iterable[Span]]
"""Finds one kind in a text that `plain` made, in time linear in it. Its spans may overlap."""

_WORD = re.compile(r"[^\W\d_]+")
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]"
)
"""Signs that nobody sees: soft hyphens, joiners, directions, selectors, tags (of Unicode's Default_Ignorable)."""
_DASHES = "\u00ad\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\u200b\ufeff"
_OTHERS = {0x0130: "I", 0xFF0B: "+", 0xFF20: "@", 0xFF0E: ".", 0xFF1A: ":", 0x2024: "."}
_ZEROS = (0x0660, 0x06F0, 0x0966, 0xFF10)  # Arabic, Persian, Devanagari, full width
_PLAIN = {
    **dict.fromkeys(map(ord, _DASHES), "-"),
    **dict.fromkeys(map(ord, _SPACES), " "),
    **_OTHERS,
    **{zero + digit: str(digit) for zero in _ZEROS for digit in range(10)},
}


def plain(text: str) -> str:
    """Return `text` with its dashes, spaces and digits in ASCII, each in its place: the length stays the same.

    So it does when the result is put in lower case: U+0130, the one letter that grows, is replaced.
    """
    return text if text.isascii() else text.translate(_PLAIN)


def everywhere(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield a match at every place where one begins, also inside another."""
    position = 0
    while match := pattern.search(text, position):
        yield match
        position = match.start() + 1


class Context:
    """Where certain words stand in a text: looked up once, and only if a number asks what stands before it."""

    def __init__(self, words: frozenset[str], text: str) -> None:
        self._words = words
        self._text = text

    def before(self, position: int, *, within: int) -> bool:
        """Whether one of the words ends at most `within` characters before `position`."""
        index = bisect_right(self._ends, position)
        return index > 0 and position - self._ends[index - 1] <= within

    @cached_property
    def _ends(self) -> list[int]:
        return [match.end() for match in _WORD.finditer(self._text) if match[0].lower() in self._words]

    def __repr__(self) -> str:
        return f"<Context of {len(self._words)} words>"


def disjoint(spans: Iterable[Span], length: int) -> list[Span]:
    """Return those of `spans` that stay, in order, none overlapping another, for a text of `length` characters.

    The more certain wins, then the longer, then the first.
    """
    taken = bytearray(length)
    kept = []
    for span in sorted(spans, key=lambda one: (-one.certainty, one.start - one.end, one.start, one.rule)):
        if taken.find(1, span.start, span.end) < 0:
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            kept.append(span)
    return sorted(kept, key=lambda one: one.start)
