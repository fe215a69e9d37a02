"""Placeholders: words that stand for pieces of a text while it is away, and give them back when it returns. Pure.

A placeholder is `[KIND_1]`: capital letters, digits and underscores between brackets, a number last. It needs no escape
in JSON, in a URL's text or in XML, is no markup by itself, and ends where it ends: `[EMAIL_1]` is no part of
`[EMAIL_12]`. It is known again in any case, and with Markdown's backslash before an underscore, since models write it
so; without its brackets, or with a space in it, it is a word like others. ADR 22 says why.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from json import dumps
from typing import Final, TypeAlias

MAX_TOKEN_CHARS: Final = 64
ESCAPED: Final = "placeholder"
"""The kind of what is no sensitive piece, but looks like a placeholder."""
_TOKEN: Final = re.compile(r"\[[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*_[0-9]+\]")
# As a model may spell it. Bounded, and no bracket in between: looking for it takes time linear in the text.
_SPELLED: Final = re.compile(rf"\[(?:[A-Za-z0-9]|\\{{0,2}}_){{3,{MAX_TOKEN_CHARS - 2}}}\]")
_BEGUN: Final = re.compile(r"\[(?:[A-Za-z0-9]|\\{0,2}_)*(?P<open>\\{1,2})?\Z")
_NO_LABEL: Final = re.compile(r"[^A-Z0-9]+")

Piece: TypeAlias = tuple[int, int, str]
"""Characters from the first to before the second, in code points, and their kind."""


class TooLong(ValueError):
    """With what placeholders stand for, a text would be longer than it may be."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """`token` stands for `original`, which is of `kind`. Its repr does not tell the original."""

    token: str
    original: str = field(repr=False)
    kind: str


def well_formed(token: str) -> bool:
    """Whether `token` is of the form that can be put back."""
    return len(token) <= MAX_TOKEN_CHARS and _TOKEN.fullmatch(token) is not None


def redacted(
    texts: Sequence[str],
    pieces: Sequence[Sequence[Piece]],
    known: Iterable[Placeholder] = (),
    kinds: Iterable[str] = (),
) -> tuple[list[str], list[Placeholder]]:
    """Return `texts` with placeholders in the place of `pieces`, and all placeholders: `known` ones, then new ones.

    The pieces of each text are in order, and none overlaps another. The same original of the same kind has the same
    placeholder. What a text itself says in the form of a placeholder, of a kind that is there, known, or one of `kinds`
    that may come later, is replaced too: so `restored` gives back the very texts, and no text speaks of a placeholder
    that it was not given.
    """
    mint = _Mint(known, {*kinds, *(kind for of in pieces for _, _, kind in of)})
    return [mint.redact(text, of) for text, of in zip(texts, pieces, strict=True)], mint.placeholders


def restored(text: str, placeholders: Iterable[Placeholder], *, json: bool = False, most: int | None = None) -> str:
    """Return `text` with what its placeholders stand for. What stands there instead is not looked through again.

    `json`: the text is JSON, so what is put into it is escaped as inside of a string. Raises TooLong where the result
    would have more than `most` characters.
    """
    return _Originals(placeholders, json=json, most=most).put_back(text)


class Restorer:
    """Does what `restored` does to a text that comes in pieces; `most` bounds the whole of it.

    Held back is only what may be the beginning of one of its placeholders, so never more characters than the longest
    of them has.
    """

    def __init__(self, placeholders: Iterable[Placeholder], *, json: bool = False, most: int | None = None) -> None:
        self._originals = _Originals(placeholders, json=json, most=most)
        self._held = ""

    def feed(self, delta: str) -> str:
        """Return what is sure of the text that has arrived. Raises TooLong."""
        text = self._held + delta
        cut = self._originals.begun(text)
        self._held = text[cut:]
        return self._originals.put_back(text[:cut])

    def end(self) -> str:
        """Return what is held back: nothing follows."""
        held, self._held = self._held, ""
        return self._originals.put_back(held)

    def __repr__(self) -> str:
        return f"<Restorer {self._originals!r}, {len(self._held)} characters held>"


class _Originals:
    """What placeholders stand for, by their tokens."""

    def __init__(self, placeholders: Iterable[Placeholder], *, json: bool, most: int | None) -> None:
        self._of = {
            one.token: dumps(one.original, ensure_ascii=False)[1:-1] if json else one.original for one in placeholders
        }
        self._tokens = sorted(self._of)
        self._longest = max((len(token) + 2 * token.count("_") for token in self._tokens), default=0)
        self._most = most
        self._size = 0

    def put_back(self, text: str) -> str:
        if not self._tokens:
            return text
        if self._most is not None:  # before anything is made that is too long
            self._size += len(text) + sum(len(self._original(one)) - len(one[0]) for one in _SPELLED.finditer(text))
            if self._size > self._most:
                raise TooLong(f"with what its placeholders stand for the text has more than {self._most} characters")
        return _SPELLED.sub(self._original, text)

    def begun(self, text: str) -> int:
        """Return where the beginning of a token stands that may go on after `text`; its length if there is none."""
        start = text.rfind("[")
        if start < 0 or len(text) - start >= self._longest:
            return len(text)
        begun = _BEGUN.match(text, start)
        if begun is None:
            return len(text)
        name = _plain(begun[0]) + ("_" if begun["open"] else "")  # after a backslash nothing else can follow
        place = bisect_left(self._tokens, name)
        goes_on = place < len(self._tokens) and self._tokens[place].startswith(name)
        return start if goes_on else len(text)

    def _original(self, match: re.Match[str]) -> str:
        return self._of.get(_plain(match[0]), match[0])

    def __repr__(self) -> str:
        return f"{len(self._tokens)} placeholders"


class _Mint:
    """Makes placeholders. Its labels are those that no text may use but by a placeholder."""

    def __init__(self, known: Iterable[Placeholder], kinds: Iterable[str]) -> None:
        self.placeholders = list(known)
        self._of = {(one.kind, one.original): one for one in reversed(self.placeholders)}
        self._taken = {one.token for one in self.placeholders}
        self._labels = {*map(_label, kinds), *map(_label_of, self._taken), _label(ESCAPED)}
        self._numbers: dict[str, int] = {}

    def redact(self, text: str, pieces: Sequence[Piece]) -> str:
        parts: list[str] = []
        position = 0
        for start, end, kind in pieces:
            parts += _SPELLED.sub(self._unsaid, text[position:start]), self._token(text[start:end], kind)
            position = end
        return "".join((*parts, _SPELLED.sub(self._unsaid, text[position:])))

    def _unsaid(self, found: re.Match[str]) -> str:
        said = _plain(found[0])
        reserved = _TOKEN.fullmatch(said) is not None and _label_of(said) in self._labels
        return self._token(found[0], ESCAPED) if reserved else found[0]

    def _token(self, original: str, kind: str) -> str:
        found = self._of.get((kind, original))
        if found is None:
            label = _label(kind)
            number = self._numbers.get(label, 0) + 1
            while f"[{label}_{number}]" in self._taken:
                number += 1
            self._numbers[label] = number
            found = self._of[kind, original] = Placeholder(f"[{label}_{number}]", original, kind)
            self.placeholders.append(found)
        return found.token


def _label(kind: str) -> str:
    label = _NO_LABEL.sub("_", kind.upper()).strip("_")[:40].rstrip("_")
    return label if label[:1].isalpha() else f"DATA_{label}".rstrip("_")


def _label_of(token: str) -> str:
    return token[1:].rpartition("_")[0]


def _plain(spelled: str) -> str:
    return spelled.replace("\\", "").upper()
