"""When the first mistake of an answer could have been known, read off its findings: by kind, and by where they are.

It shares nothing with the validator's own reading on the way: the whole value is judged by the library, and each
finding is then placed in the text. What hangs on a condition is placed where the value that decides it ends, which may
be late; `bench.early` counts how often the validator knew before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonschema_rs import ValidationError
from jsonschema_rs import ValidationErrorKind as Kind

_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,\]}]+')
_UNIT = re.compile(r"\\u[dD][89abAB]..\\u....|\\u....|\\.|.", re.DOTALL)
_STEPS = frozenset({"properties", "patternProperties", "prefixItems"})
_ITEMS = frozenset({"items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties"})
_CONDITIONS = frozenset({"then", "else", "dependencies", "dependentSchemas"})
_NAMED = frozenset({"allOf", "anyOf", "oneOf", "dependencies", "dependentSchemas", "$defs", "definitions"})


@dataclass(slots=True)
class Place:
    """A value in the text: where its first character is, and how much has to be read to know its end."""

    value: Any
    start: int
    end: int
    keys: dict[str, int] = field(default_factory=dict)
    """Where the keys of an object end, in order."""
    parts: dict[str, Place] = field(default_factory=dict)
    """By name or index."""


def place(text: str, at: int = 0) -> Place:
    """Return the value that begins at `at` in JSON `text`, and all that is in it."""
    at = _skip(text, at)
    if text[at] not in "[{":
        found = _SCALAR.match(text, at)
        assert found is not None
        value = json.loads(found[0])
        return Place(value, at, found.end() + _is_number(value))  # a number is over with what follows it
    whole = Place({} if text[at] == "{" else [], at, 0)
    at = _skip(text, at + 1)
    while text[at] not in "]}":
        name = None
        if isinstance(whole.value, dict):
            key = place(text, at)
            name = str(key.value)
            whole.keys[name] = key.end
            at = _skip(text, key.end) + 1
        part = place(text, at)
        whole.parts[str(len(whole.parts)) if name is None else name] = part
        if name is None:
            whole.value.append(part.value)
        else:
            whole.value[name] = part.value
        at = _skip(text, part.end - _is_number(part.value))
        at = _skip(text, at + 1) if text[at] == "," else at
    whole.end = at + 1
    return whole


def earliest(text: str, errors: Iterable[ValidationError], *, mendable: bool = False) -> int:
    """Return how many characters of `text` have to be read before one of its `errors` can be known.

    Where broken JSON is `mendable`, what follows a closing quote tells whether it was meant to be one, and the first
    colon whether an object is none of Python's sets.
    """
    root = place(text)
    closed = set(_closed(root)) if mendable else set()
    opened = dict(_opened(root)) if mendable else {}
    known = (opened.get(at, at) for at in (_known(text, root, error) for error in errors))
    return min(len(text), *(_skip(text, at) + 1 if at in closed else at for at in known))


def _closed(at: Place) -> Iterator[int]:
    """Where strings end, names included."""
    yield from at.keys.values()
    if isinstance(at.value, str):
        yield at.end
    for part in at.parts.values():
        yield from _closed(part)


def _opened(at: Place) -> Iterator[tuple[int, int]]:
    """Where objects have begun, and where their first name ends; their own end where they have none."""
    if isinstance(at.value, dict):
        yield at.start + 1, next(iter(at.keys.values()), at.end)
    for part in at.parts.values():
        yield from _opened(part)


def _known(text: str, root: Place, error: ValidationError) -> int:
    at, key_end = root, 0
    for step in error.instance_path:
        key_end = at.keys.get(str(step), 0)
        at = at.parts[str(step)]
    return max(_alone(text, root, at, key_end, error), _condition(root, error))


def _condition(root: Place, error: ValidationError) -> int:
    """Where the innermost condition is decided that the error hangs on: with the value it is about."""
    at, known, steps = root, 0, iter(error.instance_path)
    path = iter(error.evaluation_path)
    for word in path:
        if word in _CONDITIONS:
            known = max(known, at.end)
        if word in _STEPS or word in _ITEMS:
            step = next(steps, None)
            if step is None:
                break
            at = at.parts[str(step)]
        if word in _STEPS or word in _NAMED:
            next(path, None)
    return known


def _alone(text: str, root: Place, at: Place, key_end: int, error: ValidationError) -> int:
    kind, value = error.kind, at.value
    match kind:
        case Kind.AnyOf(context) | Kind.OneOfNotValid(context):
            return max(
                (min((_known(text, root, one) for one in branch), default=at.end) for branch in context), default=at.end
            )
        case Kind.Type(types):
            number = isinstance(value, float) and "integer" in types
            return at.end if number else at.start + 1
        case Kind.Enum(options):
            return _enumerated(text, at, options)
        case Kind.Constant(expected):
            return _enumerated(text, at, [expected])
        case Kind.FalseSchema():
            return key_end or at.start + 1
        case Kind.AdditionalProperties(unexpected):
            return min(at.keys[name] for name in unexpected)
        case Kind.PropertyNames(inner):
            return at.keys.get(inner.instance, at.end) if isinstance(inner.instance, str) else at.end
        case Kind.MaxItems(limit) | Kind.AdditionalItems(limit):
            return list(at.parts.values())[limit].start + 1
        case Kind.MaxProperties(limit):
            return list(at.keys.values())[limit]
        case Kind.MaxLength(limit):
            return _after(text, at, limit + 1)
        case Kind.UniqueItems():
            return _twice(list(at.parts.values()))
        case _:
            return at.end


def _enumerated(text: str, at: Place, allowed: Sequence[Any]) -> int:
    alike = [one for one in allowed if _sort(one) == _sort(at.value)]
    if not alike:
        return at.start + 1
    if not isinstance(at.value, str):
        return at.end
    for size in range(1, len(at.value) + 1):
        if not any(one.startswith(at.value[:size]) for one in alike):
            return _after(text, at, size)
    return at.end


def _after(text: str, at: Place, size: int) -> int:
    """How much has to be read for `size` characters of the string that begins there."""
    position = at.start + 1
    for _ in range(size):
        found = _UNIT.match(text, position)
        assert found is not None
        position = found.end()
    return position


def _twice(items: Sequence[Place]) -> int:
    for index, item in enumerate(items):
        if any(_same(item.value, before.value) for before in items[:index]):
            return item.end
    return items[-1].end


def _same(one: Any, other: Any) -> bool:
    return _sort(one) == _sort(other) and bool(one == other)


def _sort(value: Any) -> str:
    return "number" if _is_number(value) else type(value).__name__


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()
