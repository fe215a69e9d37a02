"""JSON read as it arrives: what begins and what ends, told once, however the text is cut."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, Protocol

Kind = Literal["object", "array", "string", "number", "boolean", "null"]
Path = tuple[str | int, ...]

_WHITE: Final = " \t\r\n"
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]+')
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NUMBER_PREFIX: Final = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:(?<=\d)[eE][+-]?\d*)?)?")
_NUMERIC: Final = frozenset("+-.0123456789eE")
_WORDS: Final = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_ESCAPES: Final = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_END: Final = {"}": "key or end", "]": "value or end"}
_CLOSES: Final[dict[str, type[Any]]] = {"}": dict, "]": list}
HEAD_CHARS: Final = 1_024
MAX_DIGITS: Final = 4_300
"""Python reads no longer integers."""
LOOKED_AT: Final = 64
"""Characters of a number that are read again with every piece; a longer one is looked at when it ends."""


class Broken(Exception):
    """What has arrived is not the beginning of JSON, as document.py reads it."""


class Listener(Protocol):
    """Is told what is read. `value` is what a whole value is; containers are built on the way."""

    def begin(self, kind: Kind) -> None: ...

    def key(self, name: str) -> None:
        """A property begins, in the object that is open."""
        ...

    def text(self, head: str, length: int) -> None:
        """The string that is open has grown: to `length` characters, of which HEAD_CHARS at most are told."""
        ...

    def end(self, value: Any, at: int) -> None:
        """The value that began last and is still open is whole; it ends `at` characters from the beginning."""
        ...


class Prefix:
    """One JSON value on its way. `feed` it; it is `whole` when its value has ended.

    Raises Broken for what no JSON begins with, for a key given twice and for more than `max_depth` levels.
    """

    def __init__(self, listener: Listener, *, max_depth: int) -> None:
        self._listener = listener
        self._max_depth = max_depth
        self._open: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str] = []
        self._want: Literal["value", "value or end", "key", "key or end", "colon", "comma or end"] = "value"
        self._string: list[str] | None = None
        self._head = ""
        self._length = 0
        self._is_key = False
        self._escape = ""
        self._high = 0
        self._number = ""
        self._word = ""
        self._read = 0
        self.whole = False

    def feed(self, text: str) -> None:
        """Read `text`. White space after the value is read over; anything else there is Broken."""
        at = 0
        while at < len(text):
            if self._string is not None:
                at = self._read_string(text, at)
            elif self._number:
                at = self._read_number(text, at)
            elif self._word:
                at = self._read_word(text, at)
            elif text[at] in _WHITE:
                at += 1
            else:
                at = self._read_token(text, at)
        self._read += len(text)

    def end(self) -> None:
        """The text is over: a number that may have gone on is whole. Raises Broken where something is missing."""
        if self._number:
            self._end_number(0)
        if not self.whole:
            raise Broken

    @property
    def sure(self) -> bool:
        """No value or key is just over: what follows one tells whether its last quote was meant to be its end. And no
        object has just begun: without a colon it is a set of Python's, and meant as an array."""
        return self.whole or self._want not in ("comma or end", "colon", "key or end")

    def _read_token(self, text: str, at: int) -> int:
        if self.whole:
            raise Broken
        char, want = text[at], self._want
        if char == '"' and want in ("value", "value or end", "key", "key or end"):
            self._is_key = want in ("key", "key or end")
            self._string, self._head, self._length = [], "", 0
            if not self._is_key:
                self._listener.begin("string")
            return at + 1
        if want in ("value", "value or end") and char not in "]}":
            return self._begin(text, at)
        if char == ":" and want == "colon":
            self._want = "value"
        elif char == "," and want == "comma or end":
            self._want = "key" if isinstance(self._open[-1], dict) else "value"
        elif char in "}]" and want in (_END[char], "comma or end") and isinstance(self._open[-1], _CLOSES[char]):
            self._ended(self._open.pop(), at + 1)
        else:
            raise Broken
        return at + 1

    def _begin(self, text: str, at: int) -> int:
        char = text[at]
        if char in "{[":
            if len(self._open) >= self._max_depth:
                raise Broken
            self._listener.begin("object" if char == "{" else "array")
            self._open.append({} if char == "{" else [])
            self._want = "key or end" if char == "{" else "value or end"
            return at + 1
        if char in _WORDS:
            self._listener.begin("null" if char == "n" else "boolean")
            self._word = char
            return at + 1
        if char in "-0123456789":
            self._listener.begin("number")
            self._number = char
            return at + 1
        raise Broken

    def _read_string(self, text: str, at: int) -> int:
        assert self._string is not None
        if self._escape:
            at = self._read_escape(text, at)
        else:
            if self._high and text[at] != "\\":
                raise Broken  # half of a surrogate pair
            if plain := _PLAIN.match(text, at):
                self._add(plain[0])
                at = plain.end()
            if at < len(text):
                if text[at] == '"':
                    self._end_string(at + 1)
                    return at + 1
                if text[at] != "\\":
                    raise Broken  # a control character
                self._escape = "\\"
                at += 1
        if self._string and not self._is_key:
            self._listener.text(self._head, self._length)
        return at

    def _read_escape(self, text: str, at: int) -> int:
        assert self._string is not None
        self._escape += text[at]
        kind = self._escape[1]
        if kind == "u":
            if len(self._escape) > 2 and self._escape[-1] not in _HEX:
                raise Broken
            if len(self._escape) == 6:
                self._add_unit(int(self._escape[2:6], base=16))
                self._escape = ""
        elif kind in _ESCAPES and not self._high:
            self._add(_ESCAPES[kind])
            self._escape = ""
        else:
            raise Broken
        return at + 1

    def _add(self, piece: str) -> None:
        assert self._string is not None
        self._string.append(piece)
        self._length += len(piece)
        if len(self._head) < HEAD_CHARS:
            self._head = (self._head + piece)[:HEAD_CHARS]

    def _add_unit(self, unit: int) -> None:
        assert self._string is not None
        if self._high:
            if not 0xDC00 <= unit < 0xE000:
                raise Broken
            self._add(chr(0x10000 + ((self._high - 0xD800) << 10) + (unit - 0xDC00)))
            self._high = 0
        elif 0xD800 <= unit < 0xDC00:
            self._high = unit
        elif 0xDC00 <= unit < 0xE000:
            raise Broken
        else:
            self._add(chr(unit))

    def _end_string(self, at: int) -> None:
        text = "".join(self._string or ())
        self._string = None
        if not self._is_key:
            self._ended(text, at)
            return
        members = self._open[-1]
        assert isinstance(members, dict)
        if text in members:
            raise Broken  # readers disagree on which of the two counts
        self._keys.append(text)
        self._listener.key(text)
        self._want = "colon"

    def _read_number(self, text: str, at: int) -> int:
        end = at
        while end < len(text) and text[end] in _NUMERIC:
            end += 1
        self._number += text[at:end]
        size = len(self._number)
        if size > MAX_DIGITS or (size <= LOOKED_AT and not _NUMBER_PREFIX.fullmatch(self._number)):
            raise Broken
        if end < len(text):
            self._end_number(end)
        return end

    def _end_number(self, at: int) -> None:
        digits, self._number = self._number, ""
        if not _NUMBER.fullmatch(digits):
            raise Broken
        if digits.lstrip("-").isdecimal():
            self._ended(int(digits), at)
            return
        number = float(digits)
        if number in (float("inf"), float("-inf")):
            raise Broken
        self._ended(number, at)

    def _read_word(self, text: str, at: int) -> int:
        word, value = _WORDS[self._word[0]]
        self._word += text[at]
        if not word.startswith(self._word):
            raise Broken
        if self._word == word:
            self._word = ""
            self._ended(value, at + 1)
        return at + 1

    def _ended(self, value: Any, at: int) -> None:
        self._listener.end(value, self._read + at)
        if not self._open:
            self.whole = True
            return
        outer = self._open[-1]
        if isinstance(outer, dict):
            outer[self._keys.pop()] = value
        else:
            outer.append(value)
        self._want = "comma or end"

    def __repr__(self) -> str:
        return f"<Prefix {len(self._open)} open, wants {'nothing' if self.whole else self._want}>"
