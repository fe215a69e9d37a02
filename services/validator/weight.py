"""How much work a schema can make, read off it before it is compiled.

A judgement in the native library holds Python's interpreter lock until it is done, so a thread does not help: what can
take long has to be known beforehand and goes to a worker process. A few hundred bytes of `allOf` and `$ref` are enough
for 2^30 steps, or for as many findings.
"""

from __future__ import annotations

import re
from typing import Any

MAX_WEIGHT = 5_000
"""Schema nodes, references written out, above which a schema is heavy."""
MAX_REPEATS = 1_000
"""Product of the counted repetitions of a pattern above which compiling it takes milliseconds."""
MAX_PATTERNS = 64
MAX_PROGRAMS = 4_000
"""What `program` says of all patterns of a schema, above which compiling them takes long, and memory."""
_CLASS_OF_UNICODE = 25
MAX_NESTING = 120
"""Depth, references written out, above which the native stack or ours could run short."""
_COUNTED = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_AGAIN = frozenset({"unevaluatedProperties", "unevaluatedItems"})
"""What asks all beside it again, up to three times in all, seen here: within one another that is 3^levels."""
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def weigh(schema: Any, root: Any = None) -> int | None:
    """Return the nodes of `schema` with its references written out, at least 1, or None if it is heavy.

    References are into `root`, where it is only a part.

    Heavy is what is too large, refers to itself, refers to anything but `#` and a pointer, or has patterns that are
    costly to compile. It errs towards heavy: everything nested is counted, be it a subschema or not.
    """
    if root is None and _astray(schema):
        return None
    scale = _Scale(schema if root is None else root)
    try:
        return scale.weigh(schema)
    except _Heavy:
        return None


def costly(pattern: str) -> bool:
    """Whether compiling `pattern` may take more than a millisecond or so."""
    return _repeats(pattern) > MAX_REPEATS or len(pattern) > 2_000


def program(pattern: str) -> int:
    """About how many KiB `pattern` has when it is compiled, as was seen here of `[^a]{900}` and `\\p{L}`."""
    return _repeats(pattern) * (1 + _CLASS_OF_UNICODE * pattern.lower().count("\\p{")) + len(pattern) // 8


def _repeats(pattern: str) -> int:
    repeats = 1
    for counted in _COUNTED.finditer(pattern):
        repeats *= max(1, *(int(digits[:6]) for digits in counted.groups() if digits), 1)
    return repeats


def _astray(schema: Any) -> bool:
    """Whether a reference stands where it means another document than the root: below an `id` of draft 4 that is no
    anchor. A part becomes one of draft 4 by its `$schema` too."""
    if not isinstance(schema, dict):
        return False
    moving = ("$schema", "id") if "draft-04" in str(schema.get("$schema", "")) else ("$schema",)
    waiting = [(part, False) for part in schema.values()]
    while waiting:
        node, moved = waiting.pop()
        if isinstance(node, dict):
            moved = moved or any(isinstance(said := node.get(word), str) and said[:1] != "#" for word in moving)
            if moved and any(isinstance(node.get(word), str) for word in REFERENCES):
                return True
            waiting += [(part, moved) for part in node.values()]
        elif isinstance(node, list):
            waiting += [(part, moved) for part in node]
    return False


class _Heavy(Exception):
    pass


class _Scale:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[int, int] = {}
        self._open: set[int] = set()
        self._patterns = self._programs = 0

    def weigh(self, node: Any) -> int:
        if not isinstance(node, dict | list):
            return 1
        key = id(node)
        if key in self._known:
            return self._known[key]
        if key in self._open or len(self._open) > MAX_NESTING:
            raise _Heavy
        self._open.add(key)
        total = 1
        if isinstance(node, list):
            total += sum(self.weigh(child) for child in node)
        else:
            for name, child in node.items():
                if name in REFERENCES and isinstance(child, str):
                    total += self.weigh(self._referred(name, child))
                elif name == "pattern" and isinstance(child, str):
                    total += self._pattern(child)
                elif name == "patternProperties" and isinstance(child, dict):
                    total += sum(self._pattern(pattern) for pattern in child) + self.weigh(child)
                elif name == "$id" and isinstance(child, str) and node is not self._root:
                    raise _Heavy  # it changes what references mean
                else:
                    total += self.weigh(child)
                if total > MAX_WEIGHT:
                    raise _Heavy
            if not _AGAIN.isdisjoint(node):
                total *= 3
        self._open.remove(key)
        self._known[key] = total
        if total > MAX_WEIGHT:
            raise _Heavy
        return total

    def _pattern(self, pattern: str) -> int:
        self._patterns += 1
        self._programs += program(pattern)
        if self._patterns > MAX_PATTERNS or self._programs > MAX_PROGRAMS or costly(pattern):
            raise _Heavy
        return 1 + len(pattern) // 16

    def _referred(self, name: str, reference: str) -> Any:
        if name != "$ref" or not reference.startswith("#") or "%" in reference:
            raise _Heavy
        node = self._root
        for part in reference[1:].split("/")[1:] if reference != "#" else ():
            part = part.replace("~1", "/").replace("~0", "~")
            try:
                node = node[int(part)] if isinstance(node, list) else node[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise _Heavy from None  # an anchor, or nothing: compiling will tell
        if reference != "#" and not reference.startswith("#/"):
            raise _Heavy
        return node
