"""National numbers of persons: FR, UK, US, DE. Where a number has a check digit, it is checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from services.validator.sensitive.span import Certainty, Context, Span, everywhere

_WITHIN = 48  # characters between a word and the number it announces

# Sex, year, month (20 and above: unknown or invented), department (2A, 2B: Corsica), commune, order, key.
_NIR = re.compile(
    r"([1-478](?<![A-Za-z0-9].)[ .-]?[0-9]{2}[ .-]?(?:0[1-9]|1[0-2]|[2-9][0-9])[ .-]?(?:[0-9]{2}|2[ABab])"
    r"[ .-]?[0-9]{3}[ .-]?[0-9]{3})[ .-]?([0-9]{2})(?![A-Za-z0-9])"
)
# HMRC's NIM39110: letters that are never used, prefixes that are not allocated.
_NINO = re.compile(r"[0-9](?<=[A-Za-z][ -].|[A-Za-z]{2}.)[0-9]([ -]?)[0-9]{2}\1[0-9]{2}\1[A-Da-d](?![A-Za-z0-9])")
_NINO_PREFIX = re.compile(
    r"(?<![A-Za-z0-9])(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]([ -]?)\Z", re.IGNORECASE
)
_SSN = re.compile(r"[0-8](?<![0-9A-Za-z-].)[0-9]{2}([ -]?)(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?![0-9A-Za-z-])")
_SSN_WORDS = frozenset({"ssn", "social", "security"})
_TAX_ID = re.compile(r"[1-9](?<![0-9A-Za-z+].)[0-9][ ./]?[0-9]{3}[ ./]?[0-9]{3}[ ./]?[0-9]{3}(?![0-9A-Za-z])")
_CARD = re.compile(r"[0-9](?<=[A-Za-z0-9]{9}.)(?![A-Za-z0-9])|[0-9](?<=[A-Za-z0-9]{9} .)(?![A-Za-z0-9])")
_CARD_NUMBER = re.compile(r"(?<![A-Za-z0-9])[CFGHJ-NPRTV-Z][0-9CFGHJ-NPRTV-Z]{8} ?\Z", re.IGNORECASE)
_CARD_WORDS = frozenset(
    {"ausweis", "ausweisnummer", "ausweisnr", "personalausweis", "personalausweisnummer", "personalausweisnr"}
    | {"reisepass", "reisepassnummer", "passnummer", "passport", "identity", "id"}
)


def national_ids(text: str) -> Iterator[Span]:
    """Find national identification numbers."""
    yield from _fr(text)
    yield from _uk(text)
    yield from _us(text)
    yield from _de(text)
    yield from _de_card(text)


def nir_key(digits: str) -> int:
    """Return the key of the 13 characters of a French NIR; Corsica's letters count as 19 and 18 (INSEE)."""
    return 97 - int(digits.upper().replace("2A", "19").replace("2B", "18")) % 97


def tax_id(digits: str) -> bool:
    """Whether `digits` is a German tax number: ISO 7064 MOD 11,10, and one digit of the first ten twice or thrice."""
    repeated = [count for count in Counter(digits[:10]).values() if count > 1]
    if repeated not in ([2], [3]) or any(digit * 3 in digits[:10] for digit in "0123456789"):
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def document_check(number: str) -> int:
    """Return the check digit of a travel document's number: weights 7, 3, 1, letters from 10 (ICAO 9303-3)."""
    return sum(int(character, 36) * (7, 3, 1)[index % 3] for index, character in enumerate(number)) % 10


def _span(match: re.Match[str], country: str, certainty: Certainty) -> Span:
    return Span(match.start(), match.end(), "national_id", f"national_id.{country}", certainty)


def _fr(text: str) -> Iterator[Span]:
    for match in everywhere(_NIR, text):
        if nir_key(re.sub(r"[ .-]", "", match[1])) == int(match[2]):
            yield _span(match, "fr", Certainty.CHECKED)


def _uk(text: str) -> Iterator[Span]:
    for match in _NINO.finditer(text):
        begin = max(0, match.start() - 4)
        prefix = _NINO_PREFIX.search(text[begin : match.start()])
        if prefix and prefix[1] == match[1]:
            yield Span(begin + prefix.start(), match.end(), "national_id", "national_id.uk", Certainty.FORM)


def _us(text: str) -> Iterator[Span]:
    context = Context(_SSN_WORDS, text)
    for match in everywhere(_SSN, text):
        issued = not match[0].startswith(("000", "666"))
        if issued and (match[1] == "-" or context.before(match.start(), within=_WITHIN)):
            yield _span(match, "us", Certainty.FORM)


def _de(text: str) -> Iterator[Span]:
    for match in everywhere(_TAX_ID, text):
        if tax_id(re.sub(r"[ ./]", "", match[0])):
            yield _span(match, "de", Certainty.CHECKED)


def _de_card(text: str) -> Iterator[Span]:
    context = Context(_CARD_WORDS, text)
    for check in _CARD.finditer(text):
        begin = max(0, check.start() - 11)
        number = _CARD_NUMBER.search(text[begin : check.start()])
        if number and document_check(number[0][:9]) == int(check[0]):
            start = begin + number.start()
            if context.before(start, within=_WITHIN):
                yield Span(start, check.end(), "national_id", "national_id.de_card", Certainty.CHECKED)
