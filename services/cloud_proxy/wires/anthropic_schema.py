"""A JSON Schema as Anthropic's structured output takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spillway.errors import ConstraintUnsupported

PATH = "spec.constraint.json_schema"
MAX_DEPTH = 64
KEPT = frozenset({"$ref", "const", "description", "enum", "title", "type"})
"""Words that go as they are."""
FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"},
)
"""Source of both: the schema transformation of the provider's own SDK, 2.12."""
COMBINED = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
DEFINED = ("$defs", "definitions")
ANNOTATIONS = frozenset({"$schema", "$id", "$comment", "examples", "deprecated", "readOnly", "writeOnly"})
"""Words that bind nothing."""


def adapted(schema: object) -> dict[str, Any]:
    """Return `schema` in the words that the provider takes. Raises ConstraintUnsupported where it cannot be.

    Every object must be closed there, so one that says nothing of other properties is closed: what it lets through, the
    caller's schema lets through too. What cannot be closed without becoming another is refused: an object of properties
    without names, or one put together of several.
    Bounds, patterns and the like are no words of this provider: they are told to the model in the description, and the
    validator judges them.
    """
    return _adapted(schema, 0)


def _adapted(schema: object, depth: int) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        raise _unsupported("a part of it allows any value" if schema is True else "a part of it is no schema")
    if isinstance(schema.get("type"), list):
        return _branched(schema, depth)
    if not schema.keys() & {"type", "$ref", "enum", "const", *COMBINED, "properties"}:
        raise _unsupported("a part of it allows any value")
    if "$ref" in schema:  # nothing may stand beside it but what it refers to
        schema = {word: schema[word] for word in ("$ref", *DEFINED) if word in schema}
    joined = [part for word in COMBINED for part in _listed(schema.get(word)) if _is_object(part)]
    if joined and ("properties" in schema or len(_listed(schema.get("allOf"))) > 1):
        raise _unsupported("an object of it is put together of several: each would be closed to the others")
    is_object = _is_object(schema) and "$ref" not in schema
    told: dict[str, Any] = {}
    left: dict[str, Any] = {}
    for word, value in schema.items():
        if word in KEPT or _is_taken(word, value):
            told[word] = value
        elif (word in DEFINED or (word == "properties" and is_object)) and isinstance(value, Mapping):
            told[word] = {name: _adapted(part, depth + 1) for name, part in value.items()}
        elif word in COMBINED and isinstance(value, list):
            told[COMBINED[word]] = [_adapted(part, depth + 1) for part in value]
        elif word == "items" and value is not True:
            told[word] = _adapted(value, depth + 1)
        elif word not in ("properties", "required", "additionalProperties", *ANNOTATIONS):
            left[word] = value
    if is_object:
        told.update(_closed(schema))
    if left:
        said = json.dumps(left, ensure_ascii=False, separators=(", ", ": "))
        told["description"] = f"{told['description']}\n\n{said}" if told.get("description") else said
    return told


def _branched(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """A schema of several types: a branch for each, unless its values are all named."""
    alone = {word: value for word, value in schema.items() if word not in ("type", *DEFINED)}
    defined = {word: schema[word] for word in DEFINED if word in schema}
    if alone.keys() & {"enum", "const"}:
        return _adapted({**alone, **defined}, depth + 1)
    return _adapted({"anyOf": [{**alone, "type": kind} for kind in schema["type"]], **defined}, depth + 1)


def _is_object(schema: object) -> bool:
    """Whether it describes an object, or refers to what may."""
    if not isinstance(schema, Mapping):
        return False
    return "$ref" in schema or schema.get("type", "object" if "properties" in schema else None) == "object"


def _is_taken(word: str, value: object) -> bool:
    """Whether a word is taken with this value, if not with every one."""
    return (word == "format" and str(value) in FORMATS) or (word == "minItems" and value in (0, 1))


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    others, named = schema.get("additionalProperties"), schema.get("properties")
    if isinstance(others, Mapping) or "patternProperties" in schema or (others is not False and not named):
        raise _unsupported("an object of it has properties that it does not name: this provider takes none such")
    told: dict[str, Any] = {"type": "object", "additionalProperties": False}
    if "required" in schema:
        told["required"] = schema["required"]
    return told


def _unsupported(why: str) -> ConstraintUnsupported:
    return ConstraintUnsupported.at(PATH, why)
