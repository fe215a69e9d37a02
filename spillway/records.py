"""Records: the items of the one array that an answer in JSON is about.

Which array that is follows from the schema alone, so a validator, a router and a client mean the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_MAX_REFERENCES: Final = 20


def array_of(schema: Any) -> tuple[str, ...] | None:
    """Return where the array of records is in what `schema` describes, as names of properties; None: nowhere.

    It is the root where that has the type array. Else it is that property of the root which alone among `properties`
    has it. A type has it that is `array`, or a list with `array` in it. `$ref` is followed within the schema; nothing
    else is looked into, so `anyOf` and the like do not count.
    """
    root = _told(schema, schema)
    if _is_array(root):
        return ()
    named = root.get("properties")
    if not isinstance(named, Mapping):
        return None
    arrays = [name for name, part in named.items() if _is_array(_told(schema, part))]
    return (arrays[0],) if len(arrays) == 1 else None


def referred(root: Any, reference: str) -> tuple[Any, str] | None:
    """Return what `reference` means within `root`, and where that is; None where it is not a plain pointer."""
    if reference == "#":
        return root, ""
    if not reference.startswith("#/") or "%" in reference:
        return None
    node = root
    for part in reference[2:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(part)] if isinstance(node, list) else node[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        if isinstance(node, Mapping) and any(isinstance(node.get(word), str) for word in ("id", "$id")):
            return None  # references below it mean something else
    return node, reference[1:]


def _told(root: Any, schema: Any) -> Mapping[str, Any]:
    """Return what `schema` says, or what it refers to; nothing where it refers to nothing that is known."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, Mapping):
            break
        reference = schema.get("$ref")
        if not isinstance(reference, str) or "type" in schema:
            return schema
        found = referred(root, reference)
        schema = None if found is None else found[0]
    return {}


def _is_array(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    return kinds == "array" or (isinstance(kinds, list) and "array" in kinds)
