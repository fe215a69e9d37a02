"""Names of persons: after words that announce one, after titles, and by given names that many people have."""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.validator.sensitive.given_names import AMBIGUOUS, GIVEN_NAMES

_TOKEN = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_PARTICLES = frozenset(
    {
        "de",
        "del",
        "della",
        "di",
        "da",
        "dos",
        "du",
        "la",
        "le",
        "van",
        "von",
        "der",
        "den",
        "ter",
        "ten",
        "bin",
        "ibn",
        "al",
        "el",
        "af",
        "av",
        "zu",
        "y",
        "e",
    }
)
_SURE = re.compile(
    r"(?<!\w)(?:my name is|name['\u2019]s|(?:maiden|full|last|first|family|partner['\u2019]s) name(?: is)?:?"
    r"|named (?:him|her)"
    r"|je m['\u2019]appelle|mon nom est|ich heiße|ich heisse|mein name ist|me llamo|mi nombre es"
    r"|(?:mr|mrs|ms|mx|dr|prof|professor|mme|mlle|herr|frau|señora?|sra?|doña)\.?"
    r"|(?:name|nom|nombre|patient|customer|client|kunde|contact)[ ]?:)[ ]",
    re.IGNORECASE,
)
_LIKELY = re.compile(
    r"(?<!\w)(?:i am|i['\u2019]m|this is|it['\u2019]s|call me|calls me|je suis|ich bin|soy|dear|hi|hello|hey"
    r"|bonjour|hallo|hola|chère?"
    r"|liebe[r]?|estimad[oa]|querid[oa]|regards|sincerely|cordialement|grüßen|grüße|saludos|signed)"
    r"[ ,:]{1,2}\r?\n?",
    re.IGNORECASE,
)
_OTHERS = """
i you he she it we they the a an this that there here my your his her our its and or but if so not no yes in on at
to of for from by with as is are was were be been do does did have has had will would can could should may might
must what when where which who whose why how all any some please thank thanks dear sir madam sirs team all everyone
monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september
october november december street road avenue court drive lane park north south east west new old mr mrs ms dr prof
let then le la les un une des et ou mais je tu il elle nous vous der die das ein eine und oder aber ich sie wir el
los las una yo
"""
_NO_NAMES = frozenset(_OTHERS.split())
_MOST = 4
"""Words of a name, particles and initials among them."""


def person_names(text: str) -> Iterator[tuple[int, int]]:
    """Yield where names stand, in time linear in `text`. A family name found once counts wherever it stands again."""
    tokens = list(_TOKEN.finditer(text))
    index = {token.start(): place for place, token in enumerate(tokens)}
    sure = {index[match.end()] for match in _SURE.finditer(text) if match.end() in index}
    likely = {index[match.end()] for match in _LIKELY.finditer(text) if match.end() in index}
    taken: set[int] = set()
    family: set[str] = set()
    place = 0
    while place < len(tokens):
        length = _length(text, tokens, place)
        known = length > 0 and _given(tokens[place][0])
        alone = known and _bare(tokens[place][0]).lower() not in AMBIGUOUS
        if length and (place in sure or alone or (length > 1 and (known or (place in likely and length == 2)))):
            end = tokens[place + length - 1]
            yield tokens[place].start(), end.start() + len(_bare(end[0]))
            if length > 1 and not _bare(end[0]).isupper():
                family.add(_bare(end[0]))
            taken.update(range(place, place + length))
        place += max(length, 1) if place in taken else 1
    family -= {token[0].title() for token in tokens if token[0].islower()}  # also a word
    for place, token in enumerate(tokens):
        word = _bare(token[0])
        if word in family and place not in taken:
            yield token.start(), token.start() + len(word)


def _given(word: str) -> bool:
    parts = _bare(word).lower().split("-")
    return all(part in GIVEN_NAMES for part in parts)


def _bare(word: str) -> str:
    """Return `word` without the s of a possessive."""
    return word[:-2] if word.endswith(("'s", "\u2019s")) else word


def _length(text: str, tokens: list[re.Match[str]], place: int) -> int:
    """Return how many tokens from `place` on can be one name: capitals, with particles and initials between."""
    length = 0
    for count in range(1, min(_MOST, len(tokens) - place) + 1):
        token = tokens[place + count - 1]
        if count > 1:
            before = tokens[place + count - 2]
            gap = text[before.end() : token.start()]
            initial = len(before[0]) == 1
            if (gap != " " and not (initial and gap == ". ")) or _bare(before[0]) != before[0]:
                break
        word = token[0]
        if word[0].isupper() and _bare(word).lower() not in _NO_NAMES:
            length = count if len(word) > 1 else length
        elif count == 1 or word not in _PARTICLES:
            break
    return length
