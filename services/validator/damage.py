"""What is wrong with broken JSON, by kind and place, as far as it can be told: for people, and for models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+")|(?P<open_string>"[^"\\]*+(?:\\.[^"\\]*+)*+\\?+\Z)"""
    r"""|(?P<single>'[^'\\]*+(?:\\.[^'\\]*+)*+')"""
    r"""|(?P<comment>//[^\n]*+|/\*.*?(?:\*/|\Z)|\#[^\n]*+)|(?P<number>[-+]?\.?\d[\w.+-]*+)|(?P<word>[^\W\d]\w*+)"""
    r"""|(?P<white>[ \t\r\n]++)|(?P<blank>\s)|(?P<mark>.)""",
    re.DOTALL | re.VERBOSE,
)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*+)(?:\.\d++)?(?:[eE][+-]?\d++)?")
_COLON: Final = re.compile(r"\s*+:")
_COMMA_END: Final = re.compile(r"\s*+(?:[\]}]|\Z)")
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_ESCAPE: Final = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}|(.))', re.DOTALL)
_JSON_WORDS: Final = frozenset({"true", "false", "null"})
_PYTHON: Final = frozenset({"none", *_JSON_WORDS})
_QUOTES: Final = frozenset("\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb`")
_ENDS: Final = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Damage:
    """One kind of damage and where it is first: line and column from 1, within the JSON."""

    kind: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.kind} (line {self.line}, column {self.column})"


def damage(text: str) -> list[Damage]:
    """Return what is wrong with the JSON `text`, each kind once, in order of first places.

    Where a quote inside a string ends it too early, what follows cannot be told any more.
    """
    first: dict[str, int] = {}
    for kind, at in _found(text):
        first.setdefault(kind, at)
    return [Damage(kind, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)) for kind, at in first.items()]


def _found(text: str) -> Iterator[tuple[str, int]]:
    waiting: list[str] = []
    ended = ""  # what stood before, where that was a value
    for token in _TOKEN.finditer(text):
        said, at, kind = token[0], token.start(), str(token.lastgroup)
        if kind in ("white", "blank", "comment"):
            if kind != "white":
                yield "a comment" if kind == "comment" else "white space that JSON does not know", at
            continue
        begins = kind != "mark" or said in "{[("
        if ended and begins:
            if ended == "string" and kind in ("word", "number", "open_string", "single"):
                yield "a quote inside a string", at
                return
            if ended == "string" and kind == "string" and not _COLON.match(text, token.end()):
                yield "a quote inside a string", at
                return
            yield "a comma that is missing", at
        ended = kind if kind != "mark" or said in "}])" else ""
        if kind == "mark":
            yield from _mark(text, token.end(), said, at, waiting)
        elif kind == "open_string":
            yield "a string without end", at
        elif kind == "string":
            yield from _string(said, at)
        elif kind == "single":
            yield "single quotes", at
        elif kind == "number":
            if not _NUMBER.fullmatch(said):
                yield "a number as JSON does not write it", at
        elif _COLON.match(text, token.end()):
            yield "a name without quotes", at
        elif said not in _JSON_WORDS:
            yield "a word of Python's" if said.lower() in _PYTHON else "text without quotes", at
    if waiting:
        yield "an end that is missing", len(text)


def _mark(text: str, after: int, said: str, at: int, waiting: list[str]) -> Iterator[tuple[str, int]]:
    if said in _ENDS:
        waiting.append(_ENDS[said])
    elif said in "}]":
        if waiting and waiting[-1] == said:
            waiting.pop()
        else:
            yield "a bracket that closes nothing", at
    elif said == ",":
        if _COMMA_END.match(text, after):
            yield "a comma before an end", at
    elif said in _QUOTES:
        yield "typographic quotes", at
    elif said != ":":
        yield f"{said!r} where JSON has none", at


def _string(said: str, at: int) -> Iterator[tuple[str, int]]:
    if control := _CONTROL.search(said):
        yield "a line break or control character inside a string", at + control.start()
    for escape in _ESCAPE.finditer(said):
        if escape[1]:
            yield "an escape that JSON does not know", at + escape.start()
            return
