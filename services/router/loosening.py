"""A schema without what it says of the form of its strings, so that placeholders may stand in them. Pure.

A decoder that is held to `format: email` can write no placeholder, and would make up an address. The answer is held to
the schema as it is when its originals stand in it again.
"""

from __future__ import annotations

import json
from typing import Any

from spillway import v1

_FORMS = frozenset({"format", "pattern", "minLength", "maxLength"})
_OF_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"})
"""Keywords whose keys are names of the schema's author."""
_OF_VALUES = frozenset({"const", "enum", "default", "examples"})


def loosen(constraint: v1.OutputConstraint) -> None:
    """Loosen every schema of `constraint`; what is no JSON is left as it is."""
    if constraint.HasField("json_schema"):
        constraint.json_schema = _loosened(constraint.json_schema)
    for uri in constraint.schemas:
        constraint.schemas[uri] = _loosened(constraint.schemas[uri])


def _loosened(text: str) -> str:
    try:
        return json.dumps(_of(json.loads(text)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _of(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_of(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _under(key, value) for key, value in schema.items() if key not in _FORMS}


def _under(key: str, value: Any) -> Any:
    if key in _OF_NAMES and isinstance(value, dict):
        return {name: _of(one) for name, one in value.items()}
    return value if key in _OF_VALUES else _of(value)
