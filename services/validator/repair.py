"""Broken JSON mended, as models break it: quotes, commas, comments, Python's words, ends that are missing.

A repairer never says no, so what it makes is read again as strictly as any answer, and held to the schema again. And
nothing in it may be made up: a text from which one of two values would have to be chosen, or in which values are
missing, is not mended.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import json_repair

from services.validator.document import NotJson, read

TRIPPED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the library raises where it trips over a text, which it has then not mended; NotJson is one of them."""
_UNDERSCORE: Final = re.compile(r"(?<!\\)((?:\\\\)*+)\\_")
"""As Markdown escapes it. Other escapes that JSON does not know may be meant, in a pattern say, and stay."""
_APOSTROPHE: Final = re.compile(r"(?<=\w)'(?=\w)")
_SINGLE: Final = re.compile(r"[{\[,:]\s*+'")
_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_PARTS: Final = re.compile(
    rf"(?P<string>{_STRING}|'[^'\\]*+(?:\\.[^'\\]*+)*+')|(?P<comment>//[^\n]*+|/\*.*?(?:\*/|\Z)|\#[^\n]*+)|.", re.DOTALL
)
_UNSURE: Final = re.compile(r'[\[{,]\s*+(?:\.\.\.|…)\s*+[,\]}]|""\s*+\+\s*+""|\b(?:undefined|NaN|Infinity)\b')
"""Outside strings: items left out, strings to be put together, and what is no value."""
_MEMBER: Final = re.compile(rf"""({_STRING})\s*+:\s*+({_STRING}|[^\s,\[\]{{}}"]++|)""", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|[nrtbf])")
_WORD: Final = re.compile(r"(?:\d[\d_]*+(?:\.[\d_]*+)?|\.\d++)(?:[eE][+-]?\d++)?|[^\W\d_]++")
_PYTHON: Final = {"true": "true", "false": "false", "null": "null", "none": "null"}
_NOTHING: Final = re.compile(r"\"\s*+\"|'\s*+'|\u201c\s*+\u201d")


@dataclass(frozen=True, slots=True)
class Mended:
    """What broken JSON was meant to be, and its JSON."""

    value: Any
    text: str
    left_out: tuple[str, ...] = ()
    """Words and numbers of the broken text that it does not hold, comments aside."""


def mended(text: str, *, max_depth: int) -> Mended | None:
    """Return what `text` was meant to be: an object, an array, or what is in round brackets. None where none can be
    made out without making up a value: for a key given twice, a value that is missing, dots in the place of items.

    What is JSON already is itself. Mending takes time that grows with the text faster than linearly, and is for
    processes that can be stopped.
    """
    try:
        return Mended(read(text, max_depth=max_depth), text)
    except NotJson:
        pass
    text = _UNDERSCORE.sub(r"\1_", text)
    if '"' not in text and _SINGLE.search(text):
        text = _APOSTROPHE.sub(r"\'", text)
    try:
        value = json_repair.loads(text)
        told = _joined(json.dumps(value, ensure_ascii=False))
        scalar = text.startswith("(") and isinstance(value, str | int | float)
        if not value or not (scalar or isinstance(value, dict | list)):
            return None
        value = read(told, max_depth=max_depth)
    except TRIPPED:
        return None
    bare = "".join('""' if part["string"] else part[0] for part in _PARTS.finditer(text) if not part["comment"])
    if _UNSURE.search(bare) or _twice(text, value) or _nothings(value) > len(_NOTHING.findall(text)):
        return None
    if bare.rstrip().endswith(("[", "{")) and _opened(told) < _opened(text):
        return None  # something had begun, and is left out
    held = Counter(_words(told))
    if held - Counter(_words(text)):
        return None
    said = _words("".join(part[0] for part in _PARTS.finditer(text) if not part["comment"]))
    left = [] if held == Counter(_words(text)) else list((Counter(said) - held).elements())
    return Mended(value, told, tuple(left))


def _joined(text: str) -> str:
    """Return `text` with its pairs of surrogates as characters. Raises ValueError for half of a pair."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _opened(text: str) -> int:
    """How many brackets open in `text`, those in its strings too."""
    return text.count("[") + text.count("{")


def _words(text: str) -> list[str]:
    text = _ESCAPED.sub(lambda found: chr(int(found[1] or found[2], base=16)) if found[1] or found[2] else " ", text)
    return [
        str(float(word.replace("_", ""))) if word[0] in ".0123456789" else _PYTHON.get(word.lower(), word)
        for word in _WORD.findall(text)
    ]


def _twice(text: str, value: Any) -> bool:
    """Whether `text` gives a key more often than `value` has it, with values that differ."""
    said: dict[str, list[str]] = {}
    for key, told in _MEMBER.findall(text):
        said.setdefault(key[1:-1], []).append(told)
    kept = Counter(_keys(value))
    return any(len(told) > kept[key] > 0 and (len(set(told)) > 1 or not told[0]) for key, told in said.items())


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _nothings(value: Any) -> int:
    """How many empty strings there are in `value`, keys included."""
    if isinstance(value, dict):
        return sum(map(_nothings, value)) + sum(map(_nothings, value.values()))
    return sum(map(_nothings, value)) if isinstance(value, list) else int(value == "")
