"""JSON Schema: compiled once, every finding told, nothing fetched."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from urllib.parse import urljoin

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind

from services.validator.complaint import VALUE, hopeless, say
from services.validator.document import pointer
from services.validator.fragments import Fragments
from services.validator.instruction import shape
from services.validator.registered import FIELD, Registered, field_of, invalid, parse, refuse
from services.validator.verdict import Finding, FindingKind
from services.validator.weight import MAX_WEIGHT, weigh
from spillway.bundle import Unbundled, bundle, refers_out
from spillway.errors import ConstraintUnsupported, FieldViolation, SchemaInvalid
from spillway.records import array_of

Brought = tuple[tuple[str, str], ...]
"""Schemas that a caller brings along: URIs and JSON texts."""
HEAVY_BYTES: Final = 32 * 2**10
"""Schemas longer than this are heavy unread."""
NOTHING: Final = Registered()
_DRAFTS: Final = frozenset(
    {
        *(f"http://json-schema.org/draft-0{number}/schema" for number in (4, 6, 7)),
        *(f"https://json-schema.org/draft/{date}/schema" for date in ("2019-09", "2020-12")),
    }
)
_PATTERN_BYTES: Final = 2**20


class Unfinished(Exception):
    """A pattern gave up before it knew: what it says of the answer is worth nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A schema before it is compiled: `value` as it was written, `known` what it may refer to.

    `whole` is the same as one document, in which every reference is a pointer, and `weight` is that one's, None where
    there is none; `reached` are then the URIs that it needs, else None.
    """

    value: Any
    known: Registered
    whole: Any
    weight: int | None
    reached: tuple[str, ...] | None

    @classmethod
    def of(cls, text: str, brought: Brought = (), settled: Registered = NOTHING, *, most: int | None = None) -> Reading:
        """Read `text` and what comes with it; as heavy, where one document would have more than `most` parts.

        Raises SchemaInvalid.
        """
        value, known = parse(text, max_depth=settled.max_depth), settled.joined(brought)
        dialect = value.get("$schema") if isinstance(value, dict) else None
        usual = dialect is None or (isinstance(dialect, str) and dialect.removesuffix("#") in _DRAFTS)
        if usual and not refers_out(text):
            weight = weigh(value)  # None also where escapes have hidden a reference
            return cls(value, known, value, weight, None if weight is None else ())
        try:
            if not usual:
                raise Unbundled("its draft is one of its own")
            found = bundle(value, known.values, most=most)
        except Unbundled:
            return cls(value, known, value, None, None)
        return cls(value, known, found.schema, weigh(found.schema), found.reached)


class Schema:
    """A compiled schema. `weight` is as `weight.weigh` gives it; None is heavy.

    It may refer to itself, to schemas `brought` along and to those that are `settled`. Patterns run on an engine that
    takes linear time. A schema with look-around or back-references is heavy, and runs on a backtracking engine that
    gives up after a million steps. Formats are asserted. Raises SchemaInvalid.
    """

    def __init__(self, text: str, brought: Brought = (), settled: Registered = NOTHING) -> None:
        reading = Reading.of(text, brought, settled)
        self.value = reading.whole
        """The schema as one document; as it was written where it is heavy."""
        self.array = array_of(reading.value)
        """Where its records are: in the schema as it was written, which is what routers and clients read."""
        self.fragments = Fragments(self.value)
        self.weight = reading.weight
        named = reading.value if isinstance(reading.value, dict) else {}
        self._base = str(named.get("$id", named.get("id", ""))).partition("#")[0]  # draft 4 has id
        try:
            options: dict[str, Any] = {"validate_formats": True, "retriever": refuse, "mask": VALUE}
            if reading.reached != ():
                options["registry"] = reading.known.registry(reading.reached)
            linear = jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES)
            try:
                self._validator = jsonschema_rs.validator_for(reading.value, pattern_options=linear, **options)
            except ValueError:
                backtracking = jsonschema_rs.FancyRegexOptions(size_limit=_PATTERN_BYTES, backtrack_limit=1_000_000)
                self._validator = jsonschema_rs.validator_for(reading.value, pattern_options=backtracking, **options)
                self.weight = None
        except ValueError as error:
            raise _mistake(error, reading) from None

    @cached_property
    def form(self) -> str:
        """The form of the values that it takes, in one line."""
        return shape(self.value)

    def accepts(self, value: Any) -> bool:
        """Whether `value` satisfies the schema."""
        return self._validator.is_valid(value)

    def findings(self, value: Any, *, limit: int, max_chars: int) -> tuple[tuple[Finding, ...], bool]:
        """Return what is wrong with `value`, `limit` findings at most, and whether no value at all could be right.

        All findings are made before the first is told; how many there can be is what `weight` bounds.
        """
        errors = list(self._validator.iter_errors(value))
        told = errors if len(errors) <= limit else errors[: limit - 1]
        found = [self._finding(error, max_chars) for error in told]
        if len(told) < len(errors):
            found.append(Finding(FindingKind.SCHEMA, f"and {len(errors) - len(told)} more findings"))
        return tuple(found), any(hopeless(error) for error in told)

    def _finding(self, error: jsonschema_rs.ValidationError, max_chars: int) -> Finding:
        if isinstance(error.kind, Kind.BacktrackLimitExceeded | Kind.RegexEngineFailure):
            raise Unfinished
        message = say(error)
        place, location = pointer(error.schema_path), error.absolute_keyword_location
        if location is not None and location.partition("#")[0] != self._base:
            place = location  # in another schema, or a part that has a name of its own
        return Finding(
            FindingKind.SCHEMA,
            message if len(message) <= max_chars else message[: max_chars - 1] + "…",
            pointer(error.instance_path),
            place,
        )

    def __repr__(self) -> str:
        return f"<Schema weight {'heavy' if self.weight is None else self.weight}>"


class Schemas:
    """Compiled schemas by their text and what was brought along, least recently used out first.

    Invalid ones are not kept. `settled` are those that all of them may refer to.
    """

    def __init__(self, *, limit: int, limit_bytes: int, settled: Registered = NOTHING) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._settled = settled
        self._kept: OrderedDict[tuple[str, Brought], Schema] = OrderedDict()
        self._bytes = 0
        self._heavy: OrderedDict[tuple[str, Brought], None] = OrderedDict()

    def get(self, text: str, brought: Brought = ()) -> Schema:
        """Return the schema of `text` and what was `brought` along. Raises SchemaInvalid."""
        key = (text, brought)
        schema = self._kept.get(key)
        if schema is not None:
            self._kept.move_to_end(key)
            return schema
        schema = self._kept[key] = Schema(text, brought, self._settled)
        self._bytes += _size(*key)
        while len(self._kept) > self._limit or self._bytes > self._limit_bytes:
            oldest, _ = self._kept.popitem(last=False)
            self._bytes -= _size(*oldest)
        return schema

    def at_hand(self, text: str, brought: Brought = ()) -> bool:
        """Whether the schema is compiled, or may be in the event loop: it is short, and its weight is known.

        A text this long is not even read; its mistakes are found by who compiles it. Raises SchemaInvalid.
        """
        key = (text, brought)
        if key in self._kept:
            return True
        if _size(*key) > HEAVY_BYTES or key in self._heavy:
            return False
        if Reading.of(text, brought, self._settled, most=MAX_WEIGHT).weight is not None:
            return True
        self._heavy[key] = None
        if len(self._heavy) > self._limit:
            self._heavy.popitem(last=False)
        return False

    def __contains__(self, key: tuple[str, Brought]) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"<Schemas {len(self._kept)}/{self._limit}, {self._bytes} bytes>"


def _size(text: str, brought: Brought) -> int:
    return len(text) + sum(len(uri) + len(other) for uri, other in brought)


def _mistake(error: ValueError, reading: Reading) -> SchemaInvalid:
    """Return the mistake in `reading`: in which schema, where in it, and what it is."""
    schemas = {"": reading.value, **reading.known.values}
    kind = error.kind if isinstance(error, jsonschema_rs.ValidationError) else None
    if not isinstance(error, jsonschema_rs.ValidationError) or isinstance(kind, Kind.Referencing):
        reason = str(getattr(error, "message", error))
        for uri, schema in schemas.items():
            for path, reference in _references(schema):
                if said := _unresolved(reason, uri, path[-1], reference):
                    return invalid(pointer(path), said, _field(uri))
        return invalid("", f"it cannot be compiled: {reason}")
    path = error.instance_path
    uri = next((uri for uri, schema in schemas.items() if _at(schema, path) == error.instance), "")
    if isinstance(kind, Kind.Format) and kind.format == "regex":
        return invalid(pointer(path), f"{str(error.instance)[:100]!r} is not a regular expression", _field(uri))
    return invalid(pointer(path), say(error), _field(uri))


def _field(uri: str) -> str:
    return field_of(uri) if uri else FIELD


def _unresolved(reason: str, uri: str, word: str | int, reference: str) -> str:
    """Return what is wrong with `reference`, in the schema `uri`, if that is what `reason` tells of."""
    target, _, fragment = reference.partition("#")
    if (not target and fragment not in reason) or not (target in reason or urljoin(uri, target) in reason):
        return ""
    if word == "$schema":
        return f"{reference!r} is no draft that is known; use draft 7 or 2020-12"
    if target:
        return f"{reference!r} is a remote reference, which is never fetched; use $defs, or register it in `schemas`"
    return f"{reference!r} refers to nothing in this schema"


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


def _at(node: Any, path: Iterable[str | int]) -> Any:
    """Return the part of `node` at `path`; a value that is no JSON where there is none."""
    try:
        for part in path:
            node = node[part]
    except (IndexError, KeyError, TypeError):
        return _NONE
    return node


_NONE: Final = object()


def unfinished(field: str) -> ConstraintUnsupported:
    """The error for a pattern that gave up."""
    said = "a pattern takes too many steps on this answer; write it without look-around and nested repetition"
    return ConstraintUnsupported(f"{field}: {said}", fields=[FieldViolation(field, said)])
