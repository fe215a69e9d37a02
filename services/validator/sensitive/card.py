"""Payment cards: an issuer's prefix, a length that issuer uses, and the Luhn check digit (ISO/IEC 7812-1)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.validator.sensitive.span import Certainty, Span, everywhere

# In one piece, or 4-4-4-4 with up to three digits more, or 4-6-5 and 4-6-4; one separator throughout.
_NUMBER = re.compile(
    r"[1-9](?<![0-9+].)(?<![0-9]\..)(?:"
    r"[0-9]{3}([ .-])[0-9]{4}\1[0-9]{4}\1(?P<fourth>[0-9]{1,4})(?:\1[0-9]{1,3})?"
    r"|[0-9]{3}([ .-])[0-9]{6}\3[0-9]{4,5}"
    r"|[0-9]{11,18}"
    r")(?![0-9])"
)
_ISSUERS = (  # from the public tables of issuer identification numbers; the first that fits names the rule
    ("amex", re.compile(r"3[47]"), (15,)),
    ("diners", re.compile(r"3(?:0[0-5]|095|6|[89])"), (14, 16, 19)),
    ("jcb", re.compile(r"35"), (16, 17, 18, 19)),  # 3528 to 3589 are issued; generators of test cards know no bounds
    ("jcb", re.compile(r"(?:2131|1800)"), (15,)),
    ("visa", re.compile(r"4"), (13, 16, 19)),
    ("mir", re.compile(r"220[0-4]"), (16, 17, 18, 19)),
    ("mastercard", re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    ("discover", re.compile(r"6011|64[4-9]|65"), (16, 17, 18, 19)),
    ("unionpay", re.compile(r"62|81"), (16, 17, 18, 19)),
    ("rupay", re.compile(r"60|82|508"), (16,)),
    ("troy", re.compile(r"9792"), (16,)),
    ("maestro", re.compile(r"5[0678]|6[0379]"), tuple(range(12, 20))),
)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def cards(text: str) -> Iterator[Span]:
    """Find payment card numbers."""
    for match in everywhere(_NUMBER, text):
        ends = [match.end()]
        if match["fourth"] and match.end("fourth") < match.end():
            ends.append(match.end("fourth"))  # what follows may be the expiry or the security code
        for end in ends:
            digits = re.sub(r"[ .-]", "", text[match.start() : end])
            if (name := issuer(digits)) and luhn(digits):
                yield Span(match.start(), end, "card", f"card.{name}", Certainty.CHECKED)
                break


def issuer(digits: str) -> str:
    """Return who issues cards of this prefix and length; nothing if nobody does."""
    for name, prefix, lengths in _ISSUERS:
        if len(digits) in lengths and prefix.match(digits):
            return name
    return ""


def luhn(digits: str) -> bool:
    """Whether the last of `digits` is the check digit of the others."""
    numbers = [ord(digit) - 48 for digit in reversed(digits)]
    return (sum(numbers[::2]) + sum(_DOUBLED[number] for number in numbers[1::2])) % 10 == 0
