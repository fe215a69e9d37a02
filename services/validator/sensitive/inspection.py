"""Where a text holds what ought not to leave the site. No waiting, no clock, no network."""

from __future__ import annotations

from collections.abc import Sequence, Set

from services.validator.sensitive.card import cards
from services.validator.sensitive.email import emails
from services.validator.sensitive.iban import ibans
from services.validator.sensitive.ip_address import ip_addresses
from services.validator.sensitive.national_id import national_ids
from services.validator.sensitive.phone import phones
from services.validator.sensitive.secret import secrets
from services.validator.sensitive.span import Detector, Span, disjoint, plain

DETECTORS: Sequence[Detector] = (cards, ibans, national_ids, phones, emails, ip_addresses, secrets)

KINDS = frozenset({"card", "iban", "national_id", "phone", "email", "ip_address", "secret"})
"""What they find."""


def inspect(text: str, detectors: Sequence[Detector] = DETECTORS, *, kinds: Set[str] = frozenset()) -> list[Span]:
    """Return the sensitive pieces of `text` in order, none overlapping another; of `kinds` alone if there are any."""
    read = plain(text)
    found = (span for find in detectors for span in find(read))
    return disjoint((span for span in found if not kinds or span.kind in kinds), len(read))


def inspect_all(texts: Sequence[str]) -> list[list[Span]]:
    """Return what `inspect` finds in each of `texts`."""
    return [inspect(text) for text in texts]
