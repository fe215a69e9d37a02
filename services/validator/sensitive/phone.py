"""Telephone numbers: international ones by their calling code, national ones by their grouping or the words before.

No number has a check digit, and a text does not say which country it is from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.validator.sensitive.span import Certainty, Context, Span

_EXTENSION = r"(?i:(?: ?(?:x|ext\.?|extension) ?[0-9]{1,6})?)(?![0-9])"
_INTERNATIONAL = re.compile(
    r"[+0](?<![\w+].)(?:(?<=\+) ?\(?|(?<=0)0[ -]?)(?P<number>[1-9](?:[ .()/-]{0,3}[0-9]){6,14})" + _EXTENSION
)
# Calling codes in use (ITU-T E.164).
_CODES = re.compile(
    r"[17]|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|21[1-368]|2[2-6][0-9]|29[0178]|35[0-9]|37[0-8]|38[0-35-79]|42[013]|50[0-9]|59[0-9]|67[02-9]|68[0-35-9]|69[0-2]"
    r"|80[08]|85[02356]|87[08]|88[0-368]|96[0-8]|97[0-79]|99[2-68]"
)
_NORTH_AMERICA = re.compile(
    r"[(1-9](?<![\w+.-].)(?<![0-9][ /].)"
    r"(?:(?<=1)[ .-]\(?[2-9][0-9]{2}\)?[ .-]|(?<=\()[2-9][0-9]{2}\)[ .-]?|(?<=[2-9])[0-9]{2}[ .-])"
    r"[0-9]{3}[ .-][0-9]{4}" + _EXTENSION
)
_GROUPS = r"(?:[ ./-]{1,2}[0-9]{2,8}+){0,5})(?![0-9])" + _EXTENSION
# A trunk 0 and at least nine digits: 01 23 45 67 89, 0171 1234567, (020) 7946 0958, 0612345678.
_TRUNK = re.compile(
    r"(?P<number>[(0](?<![\w+.,-].)(?<![0-9][ /].)"
    r"(?:(?<=\()0[1-9][0-9]{0,4}\)[ ./-]{0,2}[0-9]{2,8}+|(?<=0)[1-9][0-9]{0,10}+)" + _GROUPS
)
_ANY = re.compile(
    r"(?P<number>[(0-9](?<![\w+.,-].)"
    r"(?:(?<=\()[0-9]{1,6}\)[ ./-]{0,2}[0-9]{2,8}+|(?<=[0-9])[0-9]{0,14}+)" + _GROUPS
)
_WORDS = frozenset(
    {"phone", "phones", "telephone", "mobile", "cell", "landline", "tel", "fax", "desk", "call", "called", "calling"}
    | {"dial", "ring", "sms", "text", "texts", "message", "messages", "whatsapp", "signal", "answering", "contact"}
    | {"reach", "hotline", "helpline", "téléphone", "tél", "portable", "appeler", "appelez", "telefon", "telefonnummer"}
    | {"handy", "handynummer", "mobil", "mobilnummer", "rufnummer", "anrufen", "teléfono", "telefono", "móvil"}
)
_OTHER_WORDS = frozenset({"isbn", "issn", "doi", "version", "invoice", "order", "case", "ticket", "ref", "reference"})
_WITHIN = 32  # characters between a word and the number it announces
_CLOSE = 12
_DIGIT = re.compile(r"[0-9]")
_RUN = re.compile(r"[0-9]+")
_DATE = re.compile(
    r"(?:[0-9]{1,2}[./ -][0-9]{1,2}[./ -](?:19|20)[0-9]{2}|(?:19|20)[0-9]{2}[./ -][0-9]{1,2}[./ -][0-9]{1,2}"
    r"|1[0-9]{3}-(?:1[0-9]|20)[0-9]{2}|20[0-9]{2}-20[0-9]{2})(?![0-9])"
)


def phones(text: str) -> Iterator[Span]:
    """Find telephone numbers."""
    for match in _INTERNATIONAL.finditer(text):
        if end := _international_end(match):
            yield _span(match.start(), end, "international", Certainty.FORM)
    for match in _NORTH_AMERICA.finditer(text):
        yield _span(match.start(), match.end(), "national", Certainty.FORM)
    others = Context(_OTHER_WORDS, text)
    words = Context(_WORDS, text)
    for start, end in _grouped(_TRUNK, text, 9, 12):
        if not others.before(start, within=_CLOSE):
            yield _span(start, end, "national", Certainty.FORM)
    for start, end in _grouped(_ANY, text, 7, 15):
        if words.before(start, within=_WITHIN) and not others.before(start, within=_CLOSE):
            yield _span(start, end, "national", Certainty.CONTEXT)


def _international_end(match: re.Match[str]) -> int:
    """Return where the number ends, or 0 if none of these digits, calling code first, can exist."""
    ends = [match.start("number") + digit.end() for digit in _DIGIT.finditer(match["number"])]
    if match["number"].startswith("1"):  # North America: always eleven
        exact = len(ends) == 11
        fits = exact or (len(ends) > 11 and ends[11] > ends[10] + 1)
        return 0 if not fits else match.end() if exact else ends[10]
    return match.end() if len(ends) >= 8 and _CODES.match(match["number"]) else 0


def _grouped(pattern: re.Pattern[str], text: str, least: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of numbers of `least` to `most` digits that are no dates; groups too many are left out."""
    position = 0
    while match := pattern.search(text, position):
        digits, last, end = 0, match.start(), match.end()
        for group in _RUN.finditer(match["number"]):
            if digits + len(group[0]) > most:
                end = last
                break
            digits += len(group[0])
            last = match.start() + group.end()
        if digits >= least and not _DATE.match(text, match.start()):
            yield match.start(), end
            position = end
        else:
            position = match.start() + 1


def _span(start: int, end: int, form: str, certainty: Certainty) -> Span:
    return Span(start, end, "phone", f"phone.{form}", certainty)
