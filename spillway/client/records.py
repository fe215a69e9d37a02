"""The records of an answer on its way, as values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

_DECODER: Final = json.JSONDecoder()
_BETWEEN: Final = re.compile(r"[\s,:]*")
_ENDS: Final = frozenset(",]} \t\r\n")
"""What may follow a number; until it has come, the number may go on."""


class Records:
    """Reads JSON as it grows: the items of the array at `place`, as `spillway.records` tells it.

    It takes the JSON for well formed, since who judged it did more; `whole` says whether the end of it has come.
    """

    def __init__(self, place: tuple[str, ...]) -> None:
        self._place = place
        self._text = ""
        self._key: str | None = None
        self._open: list[str] = []
        """Brackets that have begun, of the root and the array."""
        self.whole = False

    def feed(self, text: str) -> Iterator[Any]:
        """Yield the records that have become whole."""
        self._text += text
        at = 0
        while not self.whole:
            between = _BETWEEN.match(self._text, at)
            assert between is not None
            start = between.end()
            char = self._text[start : start + 1]
            if not char:
                break
            if char in "]}" and self._open:
                self._open.pop()
                self.whole, at = not self._open, start + 1
            elif char in "[{" and self._enters(char):
                self._open.append(char)
                self._key, at = None, start + 1
            else:
                found = self._value(start) if self._open else None
                if found is None:
                    break
                value, at = found
                if self._open[-1] == "[":
                    yield value
                else:
                    self._key = value if self._key is None else None
        self._text = self._text[at:]

    def _enters(self, char: str) -> bool:
        """Whether the bracket at hand opens the root, or the array in it."""
        if not self._open:
            return char == ("{" if self._place else "[")
        return self._open == ["{"] and char == "[" and (self._key,) == self._place

    def _value(self, start: int) -> tuple[Any, int] | None:
        """Return the value that begins at `start`, and its end; None where more of it may come."""
        try:
            value, end = _DECODER.raw_decode(self._text, start)
        except (ValueError, RecursionError):  # what is nested too deep never becomes whole here
            return None
        goes_on = type(value) in (int, float) and self._text[end : end + 1] not in _ENDS
        return None if goes_on else (value, end)

    def __repr__(self) -> str:
        return f"<Records {'whole' if self.whole else 'of ' + ('.'.join(self._place) or 'the root')}>"
