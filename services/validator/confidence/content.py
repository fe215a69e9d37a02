"""Which tokens of an answer carry its content.

A brace, a quote, a name that the schema fixes are near certain in every answer, right or wrong; counted in, they hide
the few tokens that decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from services.validator.confidence.question import Question, Token

_JSON = re.compile(r'"(?P<string>[^"\\]*+(?:\\.[^"\\]*+)*+)"?(?P<name>\s*+:)?|[^\s"{}\[\],:]++', re.DOTALL)
_WORD = re.compile(r"[^\W_]++")


def content(question: Question) -> Sequence[Token]:
    """Return the tokens of the answer that hold a character of content; all of them where none does.

    Of JSON that is the inside of strings, numbers and words, without the property names that the schema fixes; of all
    else letters and digits. Tokens that are not the answer's text piece by piece (special ones, halves of characters)
    are held against their own text.
    """
    tokens = question.answer.tokens
    text = "".join(token.text for token in tokens)
    carrying = bytearray(len(text))
    for start, end in _json(text, question.names) if question.kind == "json" else _words(text):
        carrying[start:end] = b"\1" * (end - start)
    kept, at = [], 0
    for token in tokens:
        before, at = at, at + len(token.text)
        if carrying.find(1, before, at) >= 0:
            kept.append(token)
    return kept or tokens


def _words(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _WORD.finditer(text))


def _json(text: str, names: frozenset[str]) -> Iterator[tuple[int, int]]:
    for match in _JSON.finditer(text):
        if match["string"] is None:
            yield match.span()
        elif match["name"] is None or match["string"] not in names:
            yield match.span("string")
