"""What the schema library has against a value, as a sentence that a model can act on.

The value itself is never told: it is the caller's text.
"""

from __future__ import annotations

import json
from typing import Final

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind

from services.validator.document import pointer

VALUE: Final = "the value"


def say(error: jsonschema_rs.ValidationError) -> str:
    kind = error.kind
    match kind:
        case Kind.AnyOf(context) | Kind.OneOfNotValid(context):
            said = f"{VALUE} fits none of the {len(context)} alternatives of {kind.name}"
            closest = min((branch for branch in context if branch), key=len, default=None)
            return said if closest is None else f"{said}; of the closest: {_inside(closest[0], error)}"
        case Kind.OneOfMultipleValid(_):
            return f"{VALUE} fits more than one of the alternatives of oneOf; it must fit exactly one"
        case Kind.Enum(options):
            return f"{VALUE} is not one of: " + ", ".join(json.dumps(option)[:80] for option in options[:50])
        case Kind.FalseSchema():
            if hopeless(error):
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


def hopeless(error: jsonschema_rs.ValidationError) -> bool:
    """Whether `error` holds for every value: `false`, asked for without condition of the whole answer."""
    return (
        isinstance(error.kind, Kind.FalseSchema)
        and not error.instance_path
        and all(isinstance(part, int) or part in ("allOf", "$ref") for part in error.evaluation_path)
    )
