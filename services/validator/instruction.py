"""What a model is told when its answer was refused: what was wrong, and what is wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.validator.verdict import Constraint, Finding

MAX_CHARS: Final = 4_000
MAX_FINDINGS: Final = 8
MAX_SHAPE_CHARS: Final = 2_000
_MAX_DEPTH: Final = 8


def instruction(
    constraint: Constraint, form: str | None, findings: Sequence[Finding], wishes: Sequence[str] = ()
) -> str:
    """Return the words for another attempt. `form` is the `shape` of a JSON constraint, None where it was not read.

    `wishes` are what the rules of policies ask for, those that were kept too: another attempt may break them.
    """
    wrong = "\n".join(f"- {_place(finding)}{finding.message}" for finding in findings[:MAX_FINDINGS])
    match constraint.kind:
        case "json_schema" if form is not None and len(form) <= MAX_SHAPE_CHARS:
            wanted = f"Answer again, with JSON of this form alone, without fences and without comments:\n{form}"
        case "json_schema":
            wanted = "Answer again, with JSON alone, of the schema that was asked for."
        case "json_object":
            wanted = "Answer again, with one JSON object alone, without fences and without comments."
        case "choices":
            wanted = "Answer again, with one of these alone: " + ", ".join(map(json.dumps, constraint.choices))
        case "regex":
            wanted = f"Answer again; the whole answer must match this regular expression: {constraint.text}"
        case "any":
            wanted = "Answer again, with the answer alone."
    if wishes:
        wanted += "\nKeep to this:\n" + "\n".join(f"- {wish}" for wish in wishes)
    head, wanted = "Your last answer was refused:", wanted[: MAX_CHARS * 3 // 4]
    return f"{head}\n{wrong[: MAX_CHARS - len(head) - len(wanted) - 2]}\n{wanted}"


def _place(finding: Finding) -> str:
    """What a finding is about, where that is a value in JSON."""
    told = finding.path or not finding.rule
    return f"{finding.path or '/'}: " if told else ""


def shape(schema: Any) -> str:
    """Return the form of the values that `schema` takes, in one line: {"label": "a" | "b", "note"?: string}."""
    return _shape(schema, schema, 0)


def _shape(schema: Any, root: Any, depth: int) -> str:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return "any"
    if isinstance(reference := schema.get("$ref"), str):
        return _shape(_referred(root, reference), root, depth + 1)
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if isinstance(allowed := schema.get("enum"), list):
        return " | ".join(json.dumps(one, ensure_ascii=False) for one in allowed[:50])
    said = [_own(schema, root, depth)]
    for word in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(word), list):
            forms = list(dict.fromkeys(_shape(choice, root, depth + 1) for choice in choices[:20]))
            if "any" not in forms:
                said.append(" | ".join(forms))
    if isinstance(parts := schema.get("allOf"), list):
        said += [_shape(part, root, depth + 1) for part in parts[:20]]
    told = list(dict.fromkeys(form for form in said if form != "any"))
    return " & ".join(f"({form})" if " | " in form and len(told) > 1 else form for form in told) or "any"


def _own(schema: Mapping[str, Any], root: Any, depth: int) -> str:
    """Return what `schema` says beside its alternatives."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return " | ".join(_own({**schema, "type": kind}, root, depth + 1) for kind in kinds[:7])
    if kinds == "object" or (kinds is None and "properties" in schema):
        return _object(schema, root, depth)
    if kinds == "array" or (kinds is None and "items" in schema):
        return f"[{_shape(schema.get('items'), root, depth + 1)}, ...]"
    return _scalar(schema, str(kinds or "any"))


def _object(schema: Mapping[str, Any], root: Any, depth: int) -> str:
    properties, required = schema.get("properties"), schema.get("required")
    named = properties if isinstance(properties, Mapping) else {}
    must = required if isinstance(required, list) else []
    members = [
        f"{json.dumps(name, ensure_ascii=False)}{'' if name in must else '?'}: {_shape(part, root, depth + 1)}"
        for name, part in named.items()
    ]
    members += [f"{json.dumps(name, ensure_ascii=False)}: any" for name in must if name not in named]
    if schema.get("additionalProperties", not named) is not False:
        members.append("...")
    return "{" + ", ".join(members) + "}"


def _scalar(schema: Mapping[str, Any], kind: str) -> str:
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            *(("format", "as"), ("pattern", "matching"), ("minimum", "from"), ("maximum", "to")),
            *(("exclusiveMinimum", "above"), ("exclusiveMaximum", "below"), ("maxLength", "characters up to")),
        )
        if isinstance(schema.get(key), str | int | float) and not isinstance(schema.get(key), bool)
    ]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


def _referred(root: Any, reference: str) -> Any:
    node = root
    for part in reference.removeprefix("#").split("/")[1:]:
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node if reference.startswith("#") else None
