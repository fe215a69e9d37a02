"""Where a text holds what ought not to leave the site. No waiting, no clock, no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from services.validator.sensitive.card import cards
from services.validator.sensitive.email import emails
from services.validator.sensitive.iban import ibans
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


def inspect(text: str, detectors: Sequence[Detector] = DETECTORS, *, kinds: Set[str] = frozenset()) -> list[Span]:
    """Return the sensitive pieces of `text` in order, none overlapping another; of `kinds` alone if there are any."""
    return disjoint((span for span in _found(text, detectors) if not kinds or span.kind in kinds), len(text))


def _found(text: str, detectors: Sequence[Detector]) -> Iterator[Span]:
    for reading in readings(text):
        yield from (reading.back(span) for find in detectors for span in find(reading.text))
    lines = joined(plain(text))
    if lines is not None:
        for span in (span for find in _NUMBERS for span in find(lines.text)):
            # One line end: with more it is a column of numbers, of which some fit by chance.
            if span.certainty is Certainty.CHECKED and lines.joins_in(span) == 1:
                yield lines.back(span)


def inspect_all(texts: Sequence[str]) -> list[list[Span]]:
    """Return what `inspect` finds in each of `texts`."""
    return [inspect(text) for text in texts]
