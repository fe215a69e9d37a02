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
# Without its key it is found after such a word alone.
_NIR_SHORT = re.compile(_NIR.pattern.rsplit(r"[ .-]?([0-9]{2})", 1)[0] + r"(?![ .-]?[0-9]|[A-Za-z])")
_NIR_WORDS = frozenset({"nir", "nirpp", "insee", "sécu", "secu", "sécurité", "securite", "sociale", "vitale"})
# Groups in use (IRS, Publication 1915); with dashes, or after a word.
_ITIN = re.compile(
    r"9(?<![0-9A-Za-z-].)[0-9]{2}([ -]?)(?:5[0-9]|6[0-5]|7[0-9]|8[0-8]|9[0-24-9])\1[0-9]{4}(?![0-9A-Za-z-])"
)
_ITIN_WORDS = frozenset({"itin", "taxpayer"})
_NHS = re.compile(r"[0-9](?<![0-9A-Za-z+.-].)[0-9]{2}([ -]?)[0-9]{3}\1[0-9]{4}(?![0-9A-Za-z-])")
_NHS_WORDS = frozenset({"nhs"})
# Area, day of birth, first letter of the name, serial number, check digit.
_PENSION = re.compile(r"[0-9](?<![A-Za-z0-9].)[0-9][ ]?(?:[0-9]{2}){3}[ ]?[A-Za-z][ ]?[0-9]{2}[ ]?[0-9](?![A-Za-z0-9])")
_PENSION_WEIGHTS = (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1)
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
    yield from _de_pension(text)


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


def nhs_check(digits: str) -> bool:
    """Whether the last of ten `digits` is the check digit of an NHS number: weights 10 to 2, modulo 11."""
    check = -sum(int(digit) * weight for digit, weight in zip(digits, range(10, 1, -1), strict=False)) % 11
    return check == int(digits[9])


def pension_check(number: str) -> bool:
    """Whether the last of 12 characters is the check digit of a German pension number; a letter counts as 01 to 26."""
    digits = f"{number[:8]}{ord(number[8].upper()) - 64:02}{number[9:11]}"
    products = (int(digit) * weight for digit, weight in zip(digits, _PENSION_WEIGHTS, strict=True))
    return sum(product // 10 + product % 10 for product in products) % 10 == int(number[11])


def _span(match: re.Match[str], country: str, certainty: Certainty) -> Span:
    return Span(match.start(), match.end(), "national_id", f"national_id.{country}", certainty)


def _fr(text: str) -> Iterator[Span]:
    for match in everywhere(_NIR, text):
        if nir_key(re.sub(r"[ .-]", "", match[1])) == int(match[2]):
            yield _span(match, "fr", Certainty.CHECKED)
    yield from _after(text, _NIR_SHORT, _NIR_WORDS, "fr", Certainty.CONTEXT)


def _uk(text: str) -> Iterator[Span]:
    for match in _NINO.finditer(text):
        begin = max(0, match.start() - 4)
        prefix = _NINO_PREFIX.search(text[begin : match.start()])
        if prefix and prefix[1] == match[1]:
            yield Span(begin + prefix.start(), match.end(), "national_id", "national_id.uk", Certainty.FORM)

    for span in _after(text, _NHS, _NHS_WORDS, "uk_nhs", Certainty.CHECKED):
        if nhs_check(re.sub(r"[ -]", "", text[span.start : span.end])):
            yield span


def _us(text: str) -> Iterator[Span]:
    for span in _after(text, _SSN, _SSN_WORDS, "us", Certainty.FORM, dash=True):
        if not text.startswith(("000", "666"), span.start):  # never issued
            yield span
    yield from _after(text, _ITIN, _ITIN_WORDS, "us_itin", Certainty.FORM, dash=True)


def _after(
    text: str,
    pattern: re.Pattern[str],
    words: frozenset[str],
    country: str,
    certainty: Certainty,
    *,
    dash: bool = False,
) -> Iterator[Span]:
    """Find numbers after one of `words`; `dash`: also those without a word that are written with dashes."""
    context = Context(words, text)
    for match in everywhere(pattern, text):
        if (dash and match[1] == "-") or context.before(match.start(), within=_WITHIN):
            yield _span(match, country, certainty)


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


def _de_pension(text: str) -> Iterator[Span]:
    for match in everywhere(_PENSION, text):
        number = match[0].replace(" ", "")
        if 1 <= int(number[2:4]) <= 31 and 1 <= int(number[4:6]) <= 12 and pension_check(number):
            yield _span(match, "de_pension", Certainty.CHECKED)
