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

    Cuts are made between paragraphs; in a longer one after a sentence, else after a word, else anywhere. Short
    paragraphs are not joined.
    """
    found: list[Span] = []
    first = 0
    for seam in _PARAGRAPH.finditer(text):
        found += _cut(text, (first, seam.end()), max(4, at_most))
        first = seam.end()
    found += _cut(text, (first, len(text)), max(4, at_most))
    return found


def _cut(text: str, span: Span, at_most: int) -> Iterator[Span]:
    first, last = span
    while first < last:
        held = text[first : min(last, first + at_most)].encode()[:at_most].decode(errors="ignore")
        end = first + len(held)
        if end < last:
            seams = (max((found.end() for found in seam.finditer(held)), default=0) for seam in (_SENTENCE, _SPACE))
            end = next((first + seam for seam in seams if seam), end)
        yield first, end
        first = end


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
    asked = set(words(question))
    lengths: list[int] = []
    counts: list[Counter[str]] = []
    having: Counter[str] = Counter()
    for passage in passages:
        found = words(passage)
        lengths.append(len(found))
        counts.append(Counter(word for word in found if word in asked))
        having.update(counts[-1].keys())
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    rarity = {word: math.log(1 + (len(counts) - some + 0.5) / (some + 0.5)) for word, some in having.items()}
    scores = []
    for count, length in zip(counts, lengths, strict=True):
        damping = _K1 * (1 - _B + _B * length / mean) if mean else 0.0
        scores.append(math.fsum(rarity[word] * often * (_K1 + 1) / (often + damping) for word, often in count.items()))
    return scores


def words(text: str) -> list[str]:
    """The words of a text, case folded; a language without spaces gives few, so pairs of its characters count too."""
    found: list[str] = _WORD.findall(text.casefold())
    if not text.isascii():
        foreign = [word for word in found if not word.isascii()]
        found += [word[at : at + 2] for word in foreign for at in range(len(word) - 1)]
    return found
