"""Texts with placeholders in the place of what is sensitive, and back. No waiting, no clock, no network."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from services.validator.sensitive.echo import with_echoes
from services.validator.sensitive.inspection import KINDS, Recognise, inspect_all
from services.validator.sensitive.span import disjoint
from spillway.errors import RequestInvalid
from spillway.placeholders import ESCAPED, Placeholder, TooLong, redacted, restored


@dataclass(frozen=True, slots=True)
class Redacted:
    """Texts that hold placeholders, all of these, how many places were found, and of which kinds."""

    texts: list[str]
    placeholders: list[Placeholder]
    places: int
    kinds: frozenset[str]

    def __repr__(self) -> str:
        return f"<Redacted {len(self.texts)} texts, {self.places} places, {len(self.placeholders)} placeholders>"


def redact(
    texts: Sequence[str],
    kinds: Set[str],
    known: Sequence[Placeholder],
    recognise: Recognise | None = None,
    *,
    findable: Set[str] = KINDS,
) -> Redacted:
    """Return `texts` with placeholders for what is of `kinds`; for all that is found where there are none.

    `findable` are all kinds that are ever found. What is found in one place, or known from a call before, is replaced
    wherever a text says it again.
    """
    before = [(one.original, one.kind) for one in known if one.kind != ESCAPED and (not kinds or one.kind in kinds)]
    said = with_echoes(texts, inspect_all(texts, recognise, kinds=kinds), before)
    found = [disjoint(spans, len(text)) for text, spans in zip(texts, said, strict=True)]
    pieces = [[(span.start, span.end, span.kind) for span in spans] for spans in found]
    told, placeholders = redacted(texts, pieces, known, findable)
    return Redacted(told, placeholders, sum(map(len, found)), frozenset(span.kind for spans in found for span in spans))


def restore(texts: Sequence[str], placeholders: Sequence[Placeholder], most: int) -> list[str]:
    """Return `texts` with what their placeholders stand for.

    Raises RequestInvalid where they would have more than `most` characters in all.
    """
    told: list[str] = []
    try:
        for text in texts:
            told.append(restored(text, placeholders, most=most - sum(map(len, told))))
    except TooLong:
        said = f"have more than {most} characters with what their placeholders stand for"
        raise RequestInvalid.at("texts", said) from None
    return told
