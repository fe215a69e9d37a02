"""JSON Schema: compiled once, every finding told, nothing fetched."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind

from services.validator.document import NotJson, pointer, read
from services.validator.fragments import Fragments
from services.validator.verdict import Finding, FindingKind
from services.validator.weight import weigh
from spillway.errors import ConstraintUnsupported, FieldViolation, SchemaInvalid

FIELD = "constraint.json_schema"
HEAVY_BYTES = 32 * 2**10
"""Schemas longer than this are heavy unread."""
MAX_SCHEMA_DEPTH = 200
"""The library reads no deeper than 255."""
_PATTERN_BYTES = 2**20
_VALUE = "the value"


class Unfinished(Exception):
    """A pattern gave up before it knew: what it says of the answer is worth nothing."""


class Schema:
    """A compiled schema. `weight` is as `weight.weigh` gives it; None is heavy.

    Patterns run on an engine that takes linear time. A schema with look-around or back-references is heavy, and runs on
    a backtracking engine that gives up after a million steps. Formats are asserted. Raises SchemaInvalid.
    """

    def __init__(self, text: str) -> None:
        value = parse(text)
        self.value = value
        self.fragments = Fragments(value)
        self.weight = weigh(value)
        options: dict[str, Any] = {"validate_formats": True, "retriever": _refuse, "mask": _VALUE}
        linear = jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES)
        try:
            self._validator = jsonschema_rs.validator_for(value, pattern_options=linear, **options)
        except ValueError:
            backtracking = jsonschema_rs.FancyRegexOptions(size_limit=_PATTERN_BYTES, backtrack_limit=1_000_000)
            try:
                self._validator = jsonschema_rs.validator_for(value, pattern_options=backtracking, **options)
            except ValueError as error:
                raise _invalid(*_place(error, value)) from None
            self.weight = None

    def accepts(self, value: Any) -> bool:
        """Whether `value` satisfies the schema."""
        return self._validator.is_valid(value)

    def findings(self, value: Any, *, limit: int, max_chars: int) -> tuple[tuple[Finding, ...], bool]:
        """Return what is wrong with `value`, `limit` findings at most, and whether no value at all could be right.

        All findings are made before the first is told; how many there can be is what `weight` bounds.
        """
        errors = list(self._validator.iter_errors(value))
        told = errors if len(errors) <= limit else errors[: limit - 1]
        found = [_finding(error, max_chars) for error in told]
        if len(told) < len(errors):
            found.append(Finding(FindingKind.SCHEMA, f"and {len(errors) - len(told)} more findings"))
        return tuple(found), any(_hopeless(error) for error in told)

    def __repr__(self) -> str:
        return f"<Schema weight {'heavy' if self.weight is None else self.weight}>"


class Schemas:
    """Compiled schemas by their text, least recently used out first. Invalid ones are not kept."""

    def __init__(self, *, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[str, Schema] = OrderedDict()
        self._bytes = 0

    def get(self, text: str) -> Schema:
        """Return the schema of `text`. Raises SchemaInvalid."""
        schema = self._kept.get(text)
        if schema is not None:
            self._kept.move_to_end(text)
            return schema
        schema = self._kept[text] = Schema(text)
        self._bytes += len(text)
        while len(self._kept) > self._limit or self._bytes > self._limit_bytes:
            oldest, _ = self._kept.popitem(last=False)
            self._bytes -= len(oldest)
        return schema

    def __contains__(self, text: str) -> bool:
        return text in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"<Schemas {len(self._kept)}/{self._limit}, {self._bytes} bytes>"


def parse(text: str) -> Any:
    """Return the schema that `text` is. Raises SchemaInvalid where it is no JSON object or boolean."""
    try:
        value = read(text, max_depth=MAX_SCHEMA_DEPTH)
    except NotJson as error:
        raise _invalid("", f"it is not JSON that can be read: {error}") from None
    if not isinstance(value, dict | bool):
        raise _invalid("", "a schema is a JSON object or a boolean")
    return value


def light(text: str) -> bool:
    """Whether the schema may be compiled in the event loop: it is short, and its weight is known. Raises SchemaInvalid.

    A text this long is not even read; its mistakes are found by who compiles it.
    """
    return len(text) <= HEAVY_BYTES and weigh(parse(text)) is not None


def _refuse(uri: str) -> Any:
    raise ValueError(f"refused: {uri}")


def _invalid(path: str, description: str) -> SchemaInvalid:
    said = f"at {path!r}: {description}" if path else description
    return SchemaInvalid(f"{FIELD}: {said}"[:500], fields=[FieldViolation(FIELD, said[:500])])


def _place(error: ValueError, schema: Any) -> tuple[str, str]:
    """Return where in `schema` the mistake is, as a JSON pointer, and what it is."""
    if not isinstance(error, jsonschema_rs.ValidationError):
        return "", f"it cannot be compiled: {error}"
    if isinstance(error.kind, Kind.Referencing):
        reason = str(error.message)
        for path, reference in _references(schema):
            target = reference.partition("#")[0]
            if (target and target in reason) or (not target and reference.lstrip("#") in reason):
                if path[-1] == "$schema":
                    return pointer(path), f"{reference!r} is no draft that is known; use draft 7 or 2020-12"
                if target:
                    return pointer(path), f"{reference!r} is a remote reference, which is never fetched; use $defs"
                return pointer(path), f"{reference!r} refers to nothing in this schema"
        return "", reason
    if isinstance(error.kind, Kind.Format) and error.kind.format == "regex":
        return pointer(error.instance_path), f"{str(error.instance)[:100]!r} is not a regular expression"
    return pointer(error.instance_path), _say(error)


def _references(schema: Any) -> Iterator[tuple[list[str | int], str]]:
    waiting: list[tuple[list[str | int], Any]] = [([], schema)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, dict):
            for name, child in node.items():
                if name in ("$ref", "$dynamicRef", "$recursiveRef", "$schema") and isinstance(child, str):
                    yield [*path, name], child
                else:
                    waiting.append(([*path, name], child))
        elif isinstance(node, list):
            waiting.extend(([*path, index], child) for index, child in enumerate(node))


def _finding(error: jsonschema_rs.ValidationError, max_chars: int) -> Finding:
    if isinstance(error.kind, Kind.BacktrackLimitExceeded | Kind.RegexEngineFailure):
        raise Unfinished
    message = _say(error)
    return Finding(
        FindingKind.SCHEMA,
        message if len(message) <= max_chars else message[: max_chars - 1] + "…",
        pointer(error.instance_path),
        pointer(error.schema_path),
    )


def _say(error: jsonschema_rs.ValidationError) -> str:
    kind = error.kind
    match kind:
        case Kind.AnyOf(context) | Kind.OneOfNotValid(context):
            said = f"{_VALUE} fits none of the {len(context)} alternatives of {kind.name}"
            closest = min((branch for branch in context if branch), key=len, default=None)
            return said if closest is None else f"{said}; of the closest: {_inside(closest[0], error)}"
        case Kind.OneOfMultipleValid(_):
            return f"{_VALUE} fits more than one of the alternatives of oneOf; it must fit exactly one"
        case Kind.Enum(options):
            return f"{_VALUE} is not one of: " + ", ".join(json.dumps(option)[:80] for option in options[:50])
        case Kind.FalseSchema():
            if _hopeless(error):
                return "no value at all is allowed"
            keyword = error.evaluation_path[-1]
            if keyword == "additionalProperties":  # told of the object, not of its property
                return "no properties are allowed here but those the schema names"
            return "no value is allowed here"
        case Kind.Contains():
            return "the array has too few or too many items of the kind that `contains` asks for"
        case Kind.AdditionalProperties(unexpected) | Kind.UnevaluatedProperties(unexpected):
            more = f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else ""
            return "properties that are not allowed: " + ", ".join(repr(name[:60]) for name in unexpected[:5]) + more
        case Kind.PropertyNames(inner):
            return f"a property's name is wrong: {inner.message[:200]}"
        case _:
            return error.message


def _inside(error: jsonschema_rs.ValidationError, outer: jsonschema_rs.ValidationError) -> str:
    below = pointer(error.instance_path[len(outer.instance_path) :])
    return f"{error.message[:160]} (at {below})" if below else error.message[:160]


def _hopeless(error: jsonschema_rs.ValidationError) -> bool:
    """Whether `error` holds for every value: `false`, asked for without condition of the whole answer."""
    return (
        isinstance(error.kind, Kind.FalseSchema)
        and not error.instance_path
        and all(isinstance(part, int) or part in ("allOf", "$ref") for part in error.evaluation_path)
    )


def unfinished(field: str) -> ConstraintUnsupported:
    """The error for a pattern that gave up."""
    said = "a pattern takes too many steps on this answer; write it without look-around and nested repetition"
    return ConstraintUnsupported(f"{field}: {said}", fields=[FieldViolation(field, said)])
