"""IBANs: a country's own length and structure, and the remainder 1 modulo 97 (ISO 13616, ISO 7064)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.validator.sensitive.span import Certainty, Span

# What follows country and check digits, from SWIFT's IBAN registry: n digits, a letters, c either.
_STRUCTURES = """
AD 8n12c     AE 19n       AL 8n16c     AT 16n       AZ 4a20c     BA 16n       BE 12n       BG 4a6n8c    BH 4a14c
BI 23n       BR 23n1a1c   BY 4c4n16c   CH 5n12c     CR 18n       CY 8n16c     CZ 20n       DE 18n       DJ 23n
DK 14n       DO 4c20n     EE 16n       EG 25n       ES 20n       FI 14n       FK 2a12n     FO 14n       FR 10n11c2n
GB 4a14n     GE 2a16n     GI 4a15c     GL 14n       GR 7n16c     GT 24c       HN 4a20n     HR 17n       HU 24n
IE 4a14n     IL 19n       IQ 4a15n     IS 22n       IT 1a10n12c  JO 4a4n18c   KW 4a22c     KZ 3n13c     LB 4n20c
LC 4a24c     LI 5n12c     LT 16n       LU 3n13c     LV 4a13c     LY 21n       MC 10n11c2n  MD 20c       ME 18n
MK 3n10c2n   MN 16n       MR 23n       MT 4a5n18c   MU 4a19n3a   NI 4a20n     NL 4a10n     NO 11n       OM 3n16c
PK 4a16c     PL 24n       PS 4a21c     PT 21n       QA 4a21c     RO 4a16c     RS 18n       RU 14n15c    SA 2n18c
SC 4a20n3a   SD 14n       SE 20n       SI 15n       SK 20n       SM 1a10n12c  SO 19n       ST 21n       SV 4a20n
TL 19n       TN 20n       TR 6n16c     UA 6n19c     VA 18n       VG 4a16n     XK 16n       YE 4a4n18c
"""
_CLASSES = {"n": "[0-9]", "a": "[A-Za-z]", "c": "[A-Za-z0-9]"}
_CHECK = re.compile(r"[0-9](?:(?<=[A-Za-z]{2}.)|(?<=[A-Za-z]{2}[ -].))[0-9](?=[ -]?[A-Za-z0-9])")
_COUNTRY = re.compile(r"(?:^|[^A-Za-z0-9]|iban)([a-z]{2})[ -]?\Z", re.IGNORECASE)


def _compiled(structure: str) -> re.Pattern[str]:
    parts = re.findall(r"([0-9]+)([nac])", structure)
    body = "".join(rf"(?:[ -]?{_CLASSES[kind]}){{{count}}}" for count, kind in parts)
    return re.compile(body + r"(?![A-Za-z0-9])")


_REST = {country: _compiled(structure) for country, structure in re.findall(r"([A-Z]{2}) (\w+)", _STRUCTURES)}


def ibans(text: str) -> Iterator[Span]:
    """Find IBANs, in one piece or in groups."""
    for check in _CHECK.finditer(text):
        before = text[max(0, check.start() - 7) : check.start()]
        country = _COUNTRY.search(before)
        rest = _REST[country[1].upper()].match(text, check.end()) if country and country[1].upper() in _REST else None
        if country and rest:
            start = check.start() - len(before) + country.start(1)
            if remainder(text[start : rest.end()]) == 1:
                yield Span(start, rest.end(), "iban", f"iban.{country[1].lower()}", Certainty.CHECKED)


def remainder(iban: str) -> int:
    """Return `iban` modulo 97, its first four characters moved to the end and its letters as 10 to 35."""
    characters = re.sub(r"[ -]", "", iban)
    return int("".join(str(int(character, 36)) for character in characters[4:] + characters[:4])) % 97
