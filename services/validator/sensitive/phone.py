"""Telephone numbers: international ones by their calling code, national ones by their grouping or the words before.

No number has a check digit, and a text does not say which country it is from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.validator.sensitive.span import Certainty, Context, Span, everywhere

_EXTENSION = r"(?i:(?: ?(?:x|ext\.?|extension) ?[0-9]{1,6})?)(?![0-9])"
_INTERNATIONAL = re.compile(
    r"[+0](?<![\w+].)(?:(?<=\+) ?\(?|(?<=0)0[ -]?)([1-9](?:[ .()/-]{0,3}[0-9]){6,14})" + _EXTENSION
)
# Calling codes (ITU-T E.164): 1 and 7, those of two digits, and the tens that hold codes of three.
_CODES = re.compile(
    r"[17]|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|2[1-6]|29|35|37|38|42|50|59|67|68|69|80|85|87|88|96|97|99"
)
_NORTH_AMERICA = re.compile(
    r"[(1-9](?<![\w+.-].)(?:(?<=1)[ .-]\(?[2-9][0-9]{2}\)?[ .-]|(?<=\()[2-9][0-9]{2}\)[ .-]?|(?<=[2-9])[0-9]{2}[ .-])"
    r"[0-9]{3}[ .-][0-9]{4}" + _EXTENSION
)
# A trunk 0 and at least nine digits: 01 23 45 67 89, 0171 1234567, (020) 7946 0958, 0612345678.
_TRUNK = re.compile(
    r"[(0](?<![\w+.,-].)(?:(?<=\()0|(?<=0))[1-9][0-9]{0,4}\)?(?:[ ./-]{0,2}[0-9]{2,8}){1,5}" + _EXTENSION
)
_ANY = re.compile(
    r"[(0-9](?<![\w+.,-].)(?:(?<=\()[0-9])?[0-9]{0,5}\)?(?:[ ./-]{0,2}[0-9]{2,7}){1,5}" + _EXTENSION
)
_WORDS = frozenset(
    "phone phones telephone mobile cell landline tel fax desk call called calling dial ring sms text texts message "
    "messages whatsapp signal answering contact reach hotline helpline téléphone telephone tél portable appeler appelez "
    "telefon telefonnummer telefonisch handy handynummer mobil mobilnummer rufnummer anrufen teléfono telefono móvil "
    "cellulare".split()
)
_OTHER_WORDS = frozenset("isbn issn doi version invoice order case ticket ref reference".split())
_WITHIN = 32  # characters between a word and the number it announces
_DATE = re.compile(
    r"(?:[0-9]{1,2}[./ -][0-9]{1,2}[./ -](?:19|20)[0-9]{2}|(?:19|20)[0-9]{2}[./ -][0-9]{1,2}[./ -][0-9]{1,2}"
    r"|1[0-9]{3}-(?:1[0-9]|20)[0-9]{2}|20[0-9]{2}-20[0-9]{2})(?![0-9])"
)


def phones(text: str) -> Iterator[Span]:
    """Find telephone numbers."""
    for match in _INTERNATIONAL.finditer(text):
        if _reachable(_digits(match[1])):
            yield _span(match, "international", Certainty.FORM)
    others = Context(_OTHER_WORDS, text)
    for match in everywhere(_NORTH_AMERICA, text):
        yield _span(match, "national", Certainty.FORM)
    for match in everywhere(_TRUNK, text):
        if 9 <= _count(match) <= 12 and not _other(match, others):
            yield _span(match, "national", Certainty.FORM)
    words = Context(_WORDS, text)
    for match in everywhere(_ANY, text):
        if 7 <= _count(match) <= 15 and words.before(match.start(), within=_WITHIN) and not _other(match, others):
            yield _span(match, "national", Certainty.CONTEXT)


def _reachable(digits: str) -> bool:
    """Whether a number of these digits, calling code first, can exist: 7 to 15, in North America 11."""
    if digits.startswith("1"):
        return len(digits) == 11 and digits[1] > "1"
    return 8 <= len(digits) <= 16 and _CODES.match(digits) is not None  # one more for a trunk 0 in brackets


def _digits(number: str) -> str:
    return re.sub(r"[^0-9]", "", number)


def _count(match: re.Match[str]) -> int:
    """Digits of the number itself, without its extension."""
    return len(_digits(re.split(r"[xX]|ext", match[0], maxsplit=1)[0]))


def _other(match: re.Match[str], others: Context) -> bool:
    """Whether it is a date, or announced as something else."""
    return _DATE.match(match.string, match.start()) is not None or others.before(match.start(), within=12)


def _span(match: re.Match[str], form: str, certainty: Certainty) -> Span:
    return Span(match.start(), match.end(), "phone", f"phone.{form}", certainty)
