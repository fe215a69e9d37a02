"""The ways to read a text: what stands between its characters may be there to be seen, or to hide what they say."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from services.validator.sensitive.span import INVISIBLE, Span, plain

_BROKEN = re.compile(r"(?<=[0-9A-Za-z])[ \t]*\r?\n[ \t>|]{0,16}(?=[0-9A-Za-z])")
_NUMBERS = re.compile(r"[0-9][ \t]*\r?\n[ \t>|]{0,16}[0-9]")


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as it is looked through. `places`: where its characters stand in the text; None: where they do here."""

    text: str
    places: Sequence[int] | None = None
    joins: Sequence[int] = ()
    """Where it goes on over a line end."""

    def back(self, span: Span) -> Span:
        """Return `span` as it stands in the text that was read."""
        if self.places is None:
            return span
        return replace(span, start=self.places[span.start], end=self.places[span.end - 1] + 1)

    def joins_in(self, span: Span) -> int:
        """Return over how many line ends `span` goes."""
        return bisect_left(self.joins, span.end) - bisect_left(self.joins, span.start)

    def __repr__(self) -> str:
        return f"<Reading of {len(self.text)} characters, {len(self.joins)} lines joined>"


def readings(text: str) -> Iterator[Reading]:
    """Yield `text` as it is, and without its invisible signs if it has any."""
    yield Reading(plain(text))
    if not text.isascii() and INVISIBLE.search(text):
        seen = _without(text, INVISIBLE, "")
        yield replace(seen, text=plain(seen.text))


def joined(text: str) -> Reading | None:
    """Return `text`, which `plain` made, with its lines joined by a space where a number may go on; None: nowhere."""
    return _without(text, _BROKEN, " ") if _NUMBERS.search(text) else None


def _without(text: str, between: re.Pattern[str], instead: str) -> Reading:
    parts: list[str] = []
    places: list[int] = []
    joins: list[int] = []
    position = 0
    for match in between.finditer(text):
        parts += text[position : match.start()], instead
        places += range(position, match.start())
        if instead:
            joins.append(len(places))
            places.append(match.start())
        position = match.end()
    places += range(position, len(text))
    return Reading("".join((*parts, text[position:])), places, joins)
