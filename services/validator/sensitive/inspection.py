"""Where a text holds what ought not to leave the site. No waiting, no clock, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain

from services.validator.sensitive.card import cards
from services.validator.sensitive.email import emails
from services.validator.sensitive.iban import ibans
from services.validator.sensitive.injection import hidden, marks
from services.validator.sensitive.ip_address import ip_addresses
from services.validator.sensitive.national_id import national_ids
from services.validator.sensitive.phone import phones
from services.validator.sensitive.reading import joined, readings
from services.validator.sensitive.secret import secrets
from services.validator.sensitive.span import Certainty, Detector, Span, disjoint, plain

DETECTORS: Sequence[Detector] = (cards, ibans, national_ids, phones, emails, ip_addresses, secrets)

_NUMBERS: Sequence[Detector] = (cards, ibans, national_ids)
KINDS = frozenset({"card", "iban", "national_id", "phone", "email", "ip_address", "secret"})
"""What they find."""


Recognise = Callable[[Sequence[str]], Sequence[Sequence[Span]]]
"""What else finds sensitive pieces, of many texts at once."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a text holds: `spans` of what ought not to leave the site, `marks` of injection. In order, each disjoint."""

    spans: list[Span]
    marks: list[Span]


def see(texts: Sequence[str], recognise: Recognise | None = None) -> list[Seen]:
    """Return what each of `texts` holds."""
    return [Seen(spans, mark(text)) for text, spans in zip(texts, inspect_all(texts, recognise), strict=True)]


def inspect_all(
    texts: Sequence[str], recognise: Recognise | None = None, *, kinds: Set[str] = frozenset()
) -> list[list[Span]]:
    """Return what `inspect` finds in each of `texts`, and what `recognise` does."""
    others = recognise(texts) if recognise else [()] * len(texts)
    return [inspect(text, other, kinds=kinds) for text, other in zip(texts, others, strict=True)]


def inspect(text: str, others: Sequence[Span] = (), *, kinds: Set[str] = frozenset()) -> list[Span]:
    """Return the sensitive pieces of `text` in order, none overlapping another; of `kinds` alone if there are any.

    `others` are pieces that are known already.
    """
    found = chain(others, _found(text))
    return disjoint((span for span in found if not kinds or span.kind in kinds), len(text))


def mark(text: str) -> list[Span]:
    """Return where `text` speaks as if it could command the model, or hides something."""
    said = (reading.back(span) for reading in readings(text) for span in marks(reading.text))
    return disjoint(chain(said, () if text.isascii() else hidden(text)), len(text))


def _found(text: str) -> Iterator[Span]:
    for reading in readings(text):
        yield from (reading.back(span) for find in DETECTORS for span in find(reading.text))
    lines = joined(plain(text))
    if lines is not None:
        for span in (span for find in _NUMBERS for span in find(lines.text)):
            # One line end: with more it is a column of numbers, of which some fit by chance.
            if span.certainty is Certainty.CHECKED and lines.joins_in(span) == 1:
                yield lines.back(span)
