"""Postal addresses: a word for a street with a number beside it, then flat, place and postal code."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = r"[^\W\d_][\w.'\u2019-]{0,30}"
_NUMBER = r"[0-9]{1,5}[A-Za-z]?(?:[-/][0-9]{1,5}[A-Za-z]?)?"
# 12 Main Street, 4 Upper Church Rd.
_AFTER = re.compile(
    r"(?<=[^\W_] )(?:street|st|avenue|ave|av|road|rd|drive|dr|lane|ln|boulevard|blvd|court|ct|place|pl|way|close"
    r"|crescent|square|sq|terrace|parkway|pkwy|highway|hwy|row|mews|gardens|grove|alley|circle|turnpike)\b\.?",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    rf"(?<![\w.,])(?:[0-9]{{1,6}} )?{_NUMBER}(?: (?:[NSEW]|{_WORD}|[0-9]{{1,3}}(?:st|nd|rd|th))){{1,4}} \Z"
)
# 12 bis, rue de la Paix; Via Roma 7; Calle Mayor, 3.
_BEFORE = re.compile(
    r"(?<![\w-])(?:rue|avenue|av\.|boulevard|bd|place|chemin|impasse|allée|quai|cours|route|via|viale|piazza|calle|c/"
    r"|avenida|avda\.?|paseo|plaza|carrer|rua|travessa|ul\.|strada|corso)(?= )",
    re.IGNORECASE,
)
_LINK = (
    r"(?:(?:de la|de l['\u2019]|de los|de las|delle|della|del|dei|des|de|du|da|do|dos|d['\u2019]|la|le|les|el|e|y) ?)"
)
_NAMED = re.compile(
    rf" {_LINK}?(?P<first>{_WORD})(?: {_LINK}?(?!(?i:st|street|and)\b){_WORD}){{0,4}}?(?=,? [0-9]|[^\w ]|\Z| )"
)
_LEADING = re.compile(r"(?<![\w.,])(?:[0-9]{1,6} )?[0-9]{1,4}(?: ?(?:bis|ter|quater|[A-D]))?,? \Z")
_TRAILING = re.compile(rf",? (?:n[°º.] ?)?{_NUMBER}(?![\w%])")
# Hauptstraße 5, Ringvej 3, Kerkstraat 7: the word for the street ends another.
_ENDING = re.compile(
    r"(?<=[^\W\d_])(?:stra(?:ß|ss)e|str\.|gasse|weg|allee|platz|damm|ufer|steig|chaussee|straat|laan|plein|gracht|gatan|gata"
    r"|vägen|gränd|vej|gade|veien|vegen|gaten|katu|tie|utca) (?=[0-9])",
    re.IGNORECASE,
)
_START = re.compile(r"(?<![\w.,])(?:[0-9]{4,6} )?(?:[^\W\d_][\w.'\u2019-]{0,30} ){0,2}[^\W\d_][\w'\u2019-]{0,40}\Z")
_BOX = re.compile(
    r"(?<![\w.])(?:[0-9]{3,6} )?(?:(?:p\.? ?o\.? ?box|postbox|postfach|boîte postale|bp|apartado) [0-9]{1,8}"
    r"|psc [0-9]{1,5},? box [0-9]{1,6}|unit [0-9]{1,5} box [0-9]{1,6})(?!\w)",
    re.IGNORECASE,
)
_GAP = r"(?:,? |,?[ ]?\r?\n[ ,>?]{0,6})"
_FLAT = re.compile(
    rf"{_GAP}(?i:apt|apartment|suite|ste|unit|flat|floor|wohnung|appt|piso)\.? ?#?[0-9]{{1,5}}[A-Za-z]?(?!\w)"
)
_PLACE = re.compile(
    rf"{_GAP}(?:"
    rf"(?:[^\W\d_][\w.'\u2019-]{{1,30}} ?){{1,4}}?{_GAP}?,? ?(?:[A-Z]{{2,3}}|[A-Z][a-z]+)? ?"
    rf"(?:[A-Z]{{1,2}}[0-9][0-9A-Z]? [0-9][A-Z]{{2}}|[0-9]{{5}}(?:-[0-9]{{4}})?)"
    rf"|(?:D-|F-)?[0-9]{{5}} [^\W\d_][\w.'\u2019-]{{1,30}}(?:[ -][A-Z][\w.'\u2019-]{{1,30}}){{0,2}}"
    rf")(?!\w)"
)
_REACH = 80
"""Characters before a word for a street in which its number and name stand."""


def addresses(text: str) -> Iterator[tuple[int, int]]:
    """Yield where addresses of streets and post-office boxes stand. Looks at a bounded window around each."""
    last = 0
    for start, end in sorted({*_after(text), *_before(text), *_ending(text), *_boxes(text)}):
        if start >= last:
            last = _rest(text, end)
            yield start, last


def _after(text: str) -> Iterator[tuple[int, int]]:
    for street in _AFTER.finditer(text):
        begin = max(0, street.start() - _REACH)
        numbered = _NUMBERED.search(text[begin : street.start()])
        if numbered and text[street.start() - 2].isalnum() and _proper(numbered[0]):
            yield begin + numbered.start(), street.end()


def _before(text: str) -> Iterator[tuple[int, int]]:
    for street in _BEFORE.finditer(text):
        begin = max(0, street.start() - 16)
        leading = _LEADING.search(text[begin : street.start()])
        named = _NAMED.match(text, street.end(), street.end() + _REACH)
        if not named or not (named["first"][:1].isupper() or leading):
            continue
        trailing = None if leading else _TRAILING.match(text, named.end())
        if leading or trailing:
            start = begin + leading.start() if leading else street.start()
            yield start, trailing.end() if trailing else named.end()


def _ending(text: str) -> Iterator[tuple[int, int]]:
    for street in _ENDING.finditer(text):
        begin = max(0, street.start() - _REACH)
        name = _START.search(text[begin : street.start()])
        number = re.compile(_NUMBER + r"(?!\w)").match(text, street.end())
        if name and number:
            words = name[0].split(" ")
            kept = len(words[-1])
            for word in reversed(words[:-1]):  # the words before that belong to the name have capitals
                if not (word[:1].isupper() or word.isdigit()):
                    break
                kept += len(word) + 1
            yield street.start() - kept, number.end()


def _boxes(text: str) -> Iterator[tuple[int, int]]:
    for box in _BOX.finditer(text):
        yield box.start(), box.end()


def _proper(name: str) -> bool:
    """Whether its words have capitals: 3 days on the road is no address."""
    words = [word for word in name.split() if word[0].isalpha()]
    return bool(words) and all(word[0].isupper() for word in words)


def _rest(text: str, end: int) -> int:
    """Return where the address ends whose street ends at `end`: after flats, and a place with its postal code."""
    for _ in range(2):
        if flat := _FLAT.match(text, end):
            end = flat.end()
    place = _PLACE.match(text, end, end + _REACH)
    return place.end() if place else end
