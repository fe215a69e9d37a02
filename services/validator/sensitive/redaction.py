"""Texts with placeholders in the place of what is sensitive, and back. No waiting, no clock, no network."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from services.validator.sensitive.inspection import KINDS, inspect
from spillway.errors import RequestInvalid
from spillway.placeholders import Placeholder, TooLong, redacted, restored


@dataclass(frozen=True, slots=True)
class Redacted:
    """Texts that hold placeholders, all of these, how many places were found, and of which kinds."""

    texts: list[str]
    placeholders: list[Placeholder]
    places: int
    kinds: frozenset[str]

    def __repr__(self) -> str:
        return f"<Redacted {len(self.texts)} texts, {self.places} places, {len(self.placeholders)} placeholders>"


def redact(texts: Sequence[str], kinds: Set[str], known: Sequence[Placeholder]) -> Redacted:
    """Return `texts` with placeholders for what is of `kinds`; for all that is found where there are none."""
    found = [inspect(text, kinds=kinds) for text in texts]
    pieces = [[(span.start, span.end, span.kind) for span in spans] for spans in found]
    told, placeholders = redacted(texts, pieces, known, KINDS)
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
