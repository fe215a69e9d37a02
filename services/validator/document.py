"""JSON text as values: stricter than Python's own reading, and never deeper than asked."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class NotJson(ValueError):
    """The text is not JSON that every reader understands alike; the message says where and why."""


class _Refused(ValueError):
    pass


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _Refused(f"the key {twice[:60]!r} appears twice in one object; give it once")
    return members


def _constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON; use a number or null")


def _float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _Refused("a number is too large for any reader")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_constant, parse_float=_float)


def read(text: str, *, max_depth: int) -> Any:
    """Return the value that `text` is, white space around it aside. Raises NotJson."""
    start = len(text) - len(text.lstrip(" \t\r\n"))
    value, end = read_at(text, start, max_depth=max_depth)
    if rest := text[end:].lstrip(" \t\r\n"):
        raise NotJson(f"there is more text after the JSON value, {len(rest)} characters")
    return value


def read_at(text: str, start: int, *, max_depth: int) -> tuple[Any, int]:
    """Return the value that begins at `start` and where it ends. Raises NotJson.

    A key given twice is refused, because readers disagree on which of the two counts; so are NaN, numbers that
    overflow a double, integers of more than 4,300 digits and halves of surrogate pairs.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except _Refused as error:
        raise NotJson(str(error)) from None
    except RecursionError:
        raise NotJson(f"it is nested deeper than {max_depth} levels") from None
    except ValueError:
        raise NotJson("an integer has too many digits") from None
    brackets = text.count("[", start, end) + text.count("{", start, end)
    if brackets > max_depth and deeper(value, max_depth):
        raise NotJson(f"it is nested deeper than {max_depth} levels")
    if _SURROGATE.search(text, start, end):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise NotJson("a \\u escape is half of a surrogate pair") from None
    return value, end


def pointer(path: list[str | int]) -> str:
    """Return `path` as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def deeper(value: Any, levels: int) -> bool:
    """Whether arrays and objects in `value` are nested more than `levels` deep. Looks layer by layer: no recursion."""
    layer = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        layer = [
            child
            for parent in layer
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
    return bool(layer)
