"""Passages: a long text cut where it may be cut, and how relevant each piece is to a question. Pure.

Relevance is BM25 (Robertson and Zaragoza, 2009) over the passages of this one text, with its usual constants: words
that few passages have count more, repetition and length count less and less.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

Span = tuple[int, int]
"""Where a passage begins and ends in its text, in characters."""

_K1, _B = 1.2, 0.75
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile("(?<=[.!?])\\s+|\n|(?<=[\u3002\uff01\uff1f])")
"""Behind a Latin or a Chinese full stop, or at the end of a line."""
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+")


def spans(text: str, at_most: int) -> list[Span]:
    """Cut `text` into passages of at most `at_most` UTF-8 bytes; together they are the whole text.

    Cuts are made between paragraphs; in a longer one between sentences, then words, then anywhere. Short neighbours are
    not joined.
    """
    return list(_cut(text, (0, len(text)), max(4, at_most), (_PARAGRAPH, _SENTENCE, _SPACE)))


def _cut(text: str, span: Span, at_most: int, seams: Sequence[re.Pattern[str]]) -> Iterator[Span]:
    first, last = span
    if not seams:
        # A character has at most four bytes.
        yield from ((at, min(last, at + at_most // 4)) for at in range(first, last, at_most // 4))
        return
    for piece in _between(text, span, seams[0]):
        if size(text, piece) <= at_most:
            yield piece
        else:
            yield from joined(text, list(_cut(text, piece, at_most, seams[1:])), at_most)


def _between(text: str, span: Span, seam: re.Pattern[str]) -> Iterator[Span]:
    first, last = span
    for found in seam.finditer(text, first, last):
        if found.end() > first:
            yield first, found.end()
            first = found.end()
    if first < last:
        yield first, last


def joined(text: str, pieces: Sequence[Span], at_most: int) -> list[Span]:
    """Join neighbours of `pieces` as long as they have at most `at_most` UTF-8 bytes together."""
    found: list[Span] = []
    held = 0
    for piece in pieces:
        more = size(text, piece)
        if found and held + more <= at_most:
            found[-1] = found[-1][0], piece[1]
            held += more
        else:
            found.append(piece)
            held = more
    return found


def size(text: str, span: Span) -> int:
    """UTF-8 bytes of a passage."""
    return len(text[span[0] : span[1]].encode())


def relevance(question: str, passages: Sequence[str]) -> list[float]:
    """How relevant each of `passages` is to `question`: 0 where they have no word in common."""
    counts = [Counter(words(passage)) for passage in passages]
    lengths = [count.total() for count in counts]
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    scores = [0.0] * len(counts)
    for word in sorted(set(words(question))):
        having = sum(word in count for count in counts)
        rarity = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
        for place, count in enumerate(counts):
            if often := count[word]:
                scores[place] += rarity * often * (_K1 + 1) / (often + _K1 * (1 - _B + _B * lengths[place] / mean))
    return scores


def words(text: str) -> list[str]:
    """The words of a text, case folded; a language without spaces gives few, so its characters count too."""
    found = []
    for word in _WORD.findall(text.casefold()):
        found.append(word)
        if not word.isascii() and len(word) > 1:
            found += [word[at : at + 2] for at in range(len(word) - 1)]
    return found
