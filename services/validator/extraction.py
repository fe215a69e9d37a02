"""Where the JSON is in an answer: alone, in fences, inside prose, after reasoning, or inside a string of JSON.

Only outermost values are candidates. What begins like JSON and is broken is passed over whole: a good object inside a
broken one is not what the model meant to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from services.validator.document import NotJson, read, read_at
from services.validator.reasoning import answer_of

_WHITE: Final = " \t\r\n"
_BLANK: Final = _WHITE + "\f\v\u00a0\u200b\u2060\ufeff"
"""What is not seen, though JSON knows the first four alone; a byte order mark is one of the others."""
_FENCED = re.compile(r"^[ \t]*+(`{3,}+|~{3,}+)[^\n]*+\n(.*?)(?:^[ \t]*+\1[ \t]*+$|\Z)", re.MULTILINE | re.DOTALL)
_OPENING = re.compile(r"[{\[]")
_JSON_LIKE = re.compile(
    r"""\{\s*+(?:["'`\u2018-\u201e}]|\\"|[A-Za-z_$][\w$]*+\s*+:|//|/\*|\Z)"""
    r"""|\[\s*+(?:[{\["'\u2018-\u201e\]]|\\"|-?\d|true|false|null|\Z)"""
)
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_GOES_ON = re.compile(r'\s*+,\s*+"[^"\\]*+"\s*+[:"]')
"""A member after the end of an object: the bracket came too early."""
_ENDS: Final = {"{": "}", "[": "]"}
_ENCODED = re.compile(r"""\s*+[{\["]""")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A piece of an answer that is JSON, or broken JSON where `problem` says why."""

    text: str
    value: Any = None
    problem: str = ""
    whole: bool = False
    """It is all there is in the answer, white space aside."""
    at_end: bool = False
    """Nothing follows it in the answer."""
    fenced: bool = False


def candidates(answer: str, *, max_depth: int) -> Iterator[Candidate]:
    """Yield the whole answer if it is JSON, and what it holds if that is a string; else what is in fences, then what is
    in the text. Reasoning is no part of the answer."""
    text = answer.strip(_WHITE)
    try:
        yield from _whole(text, max_depth)
        return
    except NotJson as problem:
        if text.startswith('"') or (text[:1] + text[-1:]) == "()":
            yield Candidate(text, problem=str(problem), whole=True, at_end=True)
    said = answer_of(text).strip(_BLANK)
    if said != text:
        try:
            for found in _whole(said, max_depth):
                yield replace(found, whole=False)
            return
        except NotJson:
            text = said
    for fenced in _FENCED.finditer(text):
        inside = fenced[2].strip(_BLANK)
        try:
            at_end = fenced.end(2) == len(text)
            yield Candidate(inside, read(inside, max_depth=max_depth), at_end=at_end, fenced=True)
        except NotJson:
            continue  # the text is looked through below
    at = 0
    while opening := _OPENING.search(text, at):
        start = opening.start()
        if not _JSON_LIKE.match(text, start):
            at = start + 1
            continue
        try:
            value, at = read_at(text, start, max_depth=max_depth)
            wrong = "an object goes on after its end" if _goes_on(text, value, at) else ""
            if wrong:
                value, at = None, text.rfind("}") + 1
        except NotJson as error:
            value, at, wrong = None, _close(text, start), str(error)
        yield Candidate(text[start:at], value, wrong, at_end=at == len(text))


def _whole(text: str, max_depth: int) -> Iterator[Candidate]:
    """Yield the value that `text` is and, where that is a string of JSON, what is in it. Raises NotJson at once."""
    value = read(text, max_depth=max_depth)
    yield Candidate(text, value, whole=True, at_end=True)
    if isinstance(value, str) and _ENCODED.match(value):
        for found in candidates(value, max_depth=max_depth):
            yield replace(found, whole=False)


def _goes_on(text: str, value: Any, end: int) -> bool:
    return isinstance(value, dict) and _GOES_ON.match(text, end) is not None


def _close(text: str, start: int) -> int:
    """Return where the bracket at `start` is closed; the end of `text` if it is not.

    A bracket of the wrong kind closes what is open last, as it may have been meant so; one of whose kind none is open
    closes nothing.
    """
    opened: list[str] = []
    count = {"}": 0, "]": 0}
    for token in _TOKEN.finditer(text, start):
        if token[0] in _ENDS:
            opened.append(_ENDS[token[0]])
            count[opened[-1]] += 1
        elif count.get(token[0]):
            count[opened.pop()] -= 1
            if not opened:
                return token.end()
    return len(text)
