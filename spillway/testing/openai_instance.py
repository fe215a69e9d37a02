"""A minimal instance of a JSON Schema: what a simulated model answers when it is held to one."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor
from typing import Any

MAX_DEPTH = 24
FORMATS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "email": "simulated@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com/simulated",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}


def instance(schema: object) -> Any:
    """Return the smallest plain value that satisfies `schema`.

    Knows types, required properties, enums, constants, bounds, lengths, common formats, local references and the first
    branch of a choice; not patterns, not conditions.
    """
    return _instance(schema, schema, 0)


def _instance(schema: object, root: object, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return None
    if isinstance(reference := schema.get("$ref"), str):
        return _instance(_resolved(reference, root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return _instance({**_without(schema, choice), **_mapping(schema[choice][0])}, root, depth + 1)
    if schema.get("allOf"):
        return _instance(_merged(schema, root), root, depth + 1)
    kind = schema.get("type") or _guessed(schema)
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    match kind:
        case "object":
            properties = _mapping(schema.get("properties"))
            return {
                name: _instance(properties.get(name, {"type": "string"}), root, depth + 1)
                for name in schema.get("required", ())
            }
        case "array":
            first = list(schema.get("prefixItems", ()))
            few = max(int(schema.get("minItems", 0)), len(first))
            return [
                _instance(first[index] if index < len(first) else schema.get("items", {}), root, depth + 1)
                for index in range(few)
            ]
        case "string":
            return _string(schema)
        case "integer":
            return int(_number(schema, whole=True))
        case "number":
            return _number(schema, whole=False)
        case "boolean":
            return False
        case _:
            return None


def _string(schema: Mapping[str, Any]) -> str:
    text = FORMATS.get(str(schema.get("format")), "simulated")
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: int(schema.get("maxLength", len(text)))]


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    step = schema.get("multipleOf") or 1
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is not None:
        low = above + (step if whole else 0.5)
    if below is not None:
        high = below - (step if whole else 0.5)
    if low is not None and (low > 0 or (high is not None and high < 0)):
        return float(ceil(low / step) * step) if whole or "multipleOf" in schema else low
    if high is not None and high < 0:
        return float(floor(high / step) * step) if whole or "multipleOf" in schema else high
    return 0


def _guessed(schema: Mapping[str, Any]) -> str:
    if "properties" in schema or "required" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else "string"


def _merged(schema: Mapping[str, Any], root: object) -> dict[str, Any]:
    merged = _without(schema, "allOf")
    for part in schema["allOf"]:
        found = _mapping(part)
        if isinstance(reference := found.get("$ref"), str):
            found = _mapping(_resolved(reference, root))
        properties = {**_mapping(merged.get("properties")), **_mapping(found.get("properties"))}
        required = [*merged.get("required", ()), *found.get("required", ())]
        merged.update(found)
        merged.update({"properties": properties} if properties else {}, **({"required": required} if required else {}))
    return merged


def _resolved(reference: str, root: object) -> object:
    found = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            found = _mapping(found).get(step.replace("~1", "/").replace("~0", "~"))
    return found


def _without(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != name}


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
