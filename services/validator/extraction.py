"""Where the JSON is in an answer: alone, in fences, or inside prose.

Only outermost values are candidates. What begins like JSON and is broken is passed over whole: a good object inside a
broken one is not what the model meant to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from services.validator.document import NotJson, read, read_at

_FENCED = re.compile(r"^[ \t]*+(`{3,}+|~{3,}+)[^\n]*+\n(.*?)(?:^[ \t]*+\1[ \t]*+$|\Z)", re.MULTILINE | re.DOTALL)
_OPENING = re.compile(r"[{\[]")
_JSON_LIKE = re.compile(
    r"""\{\s*+(?:["'}]|[A-Za-z_$][\w$]*+\s*+:|//|/\*|\Z)|\[\s*+(?:[{\["'\]]|-?\d|true|false|null|\Z)"""
)
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


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


def candidates(answer: str, *, max_depth: int) -> Iterator[Candidate]:
    """Yield the whole answer if it is JSON, and nothing else then; or what is in fences, then what is in the text."""
    text = answer.strip(" \t\r\n")
    try:
        yield Candidate(text, read(text, max_depth=max_depth), whole=True, at_end=True)
        return
    except NotJson as problem:
        if text.startswith('"'):
            yield Candidate(text, problem=str(problem), whole=True, at_end=True)
    for fenced in _FENCED.finditer(text):
        inside = fenced[2].strip(" \t\r\n")
        try:
            yield Candidate(inside, read(inside, max_depth=max_depth), at_end=fenced.end(2) == len(text))
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
            yield Candidate(text[start:at], value, at_end=at == len(text))
        except NotJson as problem:
            at = _close(text, start)
            yield Candidate(text[start:at], problem=str(problem), at_end=at == len(text))


def _close(text: str, start: int) -> int:
    """Return where the bracket at `start` is closed; the end of `text` if it is not."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
            if depth == 0:
                return token.end()
    return len(text)
