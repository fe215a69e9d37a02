"""What the schema library has against a value, as a sentence that a model can act on.

The value itself is never told: it is the caller's text.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Final

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind

from services.validator.document import pointer

VALUE: Final = "the value"


_LOOKS: Final = {
    "date": "such as 2025-01-31",
    "date-time": "such as 2025-01-31T12:30:00Z, with the time zone",
    "time": "such as 12:30:00Z, with the time zone",
    "duration": "as ISO 8601 has it, such as P3DT4H",
    "email": "such as name@host.example",
    "hostname": "such as host.example",
    "ipv4": "such as 192.0.2.1",
    "ipv6": "such as 2001:db8::1",
    "uri": "with its scheme, such as https://host.example/path",
    "uuid": "such as 123e4567-e89b-42d3-a456-426614174000",
}
_MAX_CHARS: Final = 200
_KINDS: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def say(error: jsonschema_rs.ValidationError) -> str:
    """Return what `error` is about: what was expected, and of which kind or size the value is."""
    kind = error.kind
    match kind:
        case Kind.Type(types):
            wanted = " or ".join(f'"{one}"' for one in sorted(types))
            return f"{VALUE} is {_kind(error.instance)}; its type must be {wanted}"
        case Kind.Required(name) if error.schema_path[-1:] in (["dependentRequired"], ["dependencies"]):
            return f"{json.dumps(name)} is a required property where the others are"
        case Kind.MinLength(limit) | Kind.MaxLength(limit):
            return f"{VALUE} is {_count(error.instance, 'character')} long; {_bound(kind)} {limit} are allowed"
        case Kind.MinItems(limit) | Kind.MaxItems(limit):
            return f"the array has {_count(error.instance, 'item')}; {_bound(kind)} {limit} are allowed"
        case Kind.MinProperties(limit) | Kind.MaxProperties(limit):
            return f"the object has {_count(error.instance, 'property')}; {_bound(kind)} {limit} are allowed"
        case Kind.Minimum(limit) | Kind.Maximum(limit):
            return f"{VALUE} must be {_bound(kind)} {limit}"
        case Kind.ExclusiveMinimum(limit):
            return f"{VALUE} must be greater than {limit}"
        case Kind.ExclusiveMaximum(limit):
            return f"{VALUE} must be less than {limit}"
        case Kind.Pattern(pattern):
            return f"{VALUE} does not match the regular expression {_short(pattern)}"
        case Kind.Format(format):
            looks = f", {_LOOKS[format]}" if format in _LOOKS else ""
            return f'{VALUE} must be of the format "{format}"{looks}'
        case Kind.Constant(wanted):
            return f"{VALUE} must be {_short(wanted)}"
        case Kind.Enum(options):
            return f"{VALUE} is not one of: " + ", ".join(json.dumps(option)[:80] for option in options[:50])
        case Kind.Not(schema):
            return f"{VALUE} must not fit this schema: {_short(schema)}"
        case Kind.UniqueItems():
            return "the array has an item more than once; each may be there only once"
        case Kind.Contains():
            return f"the array has {_CONTAINED[str(error.schema_path[-1])]} of the kind that `contains` asks for"
        case Kind.AdditionalItems(limit):
            return f"the array has {_count(error.instance, 'item')}; at most {limit} are allowed"
        case Kind.UnevaluatedItems(_):
            return "the array has items that the schema does not provide for"
        case Kind.AdditionalProperties(unexpected) | Kind.UnevaluatedProperties(unexpected):
            more = f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else ""
            return "properties that are not allowed: " + ", ".join(repr(name[:60]) for name in unexpected[:5]) + more
        case Kind.PropertyNames(inner):
            return f"{str(inner.instance)[:60]!r} is no name of a property here: {say(inner)}"
        case Kind.AnyOf(context) | Kind.OneOfNotValid(context):
            said = f"{VALUE} fits none of the {len(context)} alternatives of {kind.name}"
            closest = min(
                (branch for branch in context if branch), key=partial(_distance, len(error.instance_path)), default=()
            )
            return f"{said}; of the closest: {_inside(closest[0], error)}" if closest else said
        case Kind.OneOfMultipleValid(context):
            fitting = [str(number) for number, branch in enumerate(context, 1) if not branch]
            which = f"the alternatives {' and '.join(fitting)}" if len(fitting) < 6 else "more than one alternative"
            return f"{VALUE} fits {which} of oneOf; it must fit exactly one"
        case Kind.FalseSchema():
            return _forbidden(error)
        case _:
            return error.message


_CONTAINED: Final = {
    "contains": "no item",
    "minContains": "too few items",
    "maxContains": "too many items",
}


def _forbidden(error: jsonschema_rs.ValidationError) -> str:
    if hopeless(error):
        return "no value at all is allowed"
    match error.evaluation_path[-1]:
        case "additionalProperties":  # told of the object, not of its property
            return "no properties are allowed here but those the schema names"
        case "propertyNames":
            return "no properties are allowed here"
        case "items" | "additionalItems":
            return "the array has more items than are allowed"
        case _:
            return "no value is allowed here"


def _distance(depth: int, branch: list[jsonschema_rs.ValidationError]) -> tuple[bool, bool, int]:
    """How far an alternative for the value `depth` levels down is: the closest has its type, then its constants.

    Constants are what forms of one type are told apart by.
    """
    return (
        any(isinstance(error.kind, Kind.Type) and len(error.instance_path) == depth for error in branch),
        any(isinstance(error.kind, Kind.Constant | Kind.Enum) for error in branch),
        len(branch),
    )


def _bound(kind: Kind) -> str:
    return "at least" if type(kind).__name__.startswith("Min") else "at most"


def _count(value: Any, noun: str) -> str:
    size = len(value)
    return f"{size} {noun if size == 1 else noun.removesuffix('y') + 'ies' if noun.endswith('y') else noun + 's'}"


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "null" if value is None else "a number")


def _short(value: Any) -> str:
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= _MAX_CHARS else said[: _MAX_CHARS - 1] + "…"


def _inside(error: jsonschema_rs.ValidationError, outer: jsonschema_rs.ValidationError) -> str:
    below = pointer(error.instance_path[len(outer.instance_path) :])
    said = say(error)[:_MAX_CHARS]
    return f"{said} (at {below})" if below else said


def hopeless(error: jsonschema_rs.ValidationError) -> bool:
    """Whether `error` holds for every value: `false`, asked for without condition of the whole answer."""
    return (
        isinstance(error.kind, Kind.FalseSchema)
        and not error.instance_path
        and all(isinstance(part, int) or part in ("allOf", "$ref") for part in error.evaluation_path)
    )
