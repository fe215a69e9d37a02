"""A spec rewritten, text by text: all that a target would see of it. Pure.

What is read here is what `prompt` reads, so what is inspected is what can be rewritten. JSON stays JSON: it is
rewritten string by string, and what stands between the strings is not touched. Names that targets know things by,
numbers and expressions cannot stand for something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from google.protobuf.message import Message

from .prompt import NOT_READ

Put = Callable[[str], str]
"""What is to stand in the place of a text."""

JSON_TEXTS = frozenset(
    {
        "spillway.v1.OutputConstraint.json_schema",
        "spillway.v1.OutputConstraint.SchemasEntry.value",
        "spillway.v1.Tool.parameters_json_schema",
        "spillway.v1.ToolCall.arguments",
    }
)
MAY_BE_JSON = frozenset({"spillway.v1.ToolResult.content"})
"""Texts that are read as JSON where they are that, and need not stay so."""
FIXED = frozenset(
    {
        "spillway.v1.OutputConstraint.regex",
        "spillway.v1.OutputConstraint.grammar",
        "spillway.v1.OutputConstraint.SchemasEntry.key",
        "spillway.v1.ProviderState.wire",
        "spillway.v1.Tool.name",
        "spillway.v1.ToolCall.id",
        "spillway.v1.ToolCall.name",
        "spillway.v1.ToolChoice.name",
        "spillway.v1.ToolResult.tool_call_id",
        "google.protobuf.Struct.FieldsEntry.key",
    }
)
"""Texts that mean something as they are."""
_NUMBER = "google.protobuf.Value.number_value"
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class Fixed(Exception):
    """Something would have to be changed that cannot be. Says what, without a word of it."""


def rewrite(message: Message, put: Put, *, whole: bool = False) -> None:
    """Put what `put` says in the place of each text of `message`. Raises Fixed.

    `whole`: JSON is one text too, which is still JSON afterwards if it was before.
    """
    for field, value in message.ListFields():
        name = field.full_name
        if name in NOT_READ:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            for key in list(value):
                if isinstance(key, str):
                    _text(entry["key"].full_name, key, put, whole=whole)
                if isinstance(value[key], Message):
                    rewrite(value[key], put, whole=whole)
                elif isinstance(value[key], str):
                    value[key] = _text(entry["value"].full_name, value[key], put, whole=whole)
        elif field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                rewrite(one, put, whole=whole)
        elif field.type == field.TYPE_STRING and field.is_repeated:
            value[:] = [_text(name, one, put, whole=whole) for one in value]
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, _text(name, value, put, whole=whole))
        elif name == _NUMBER and put(told := f"{value:.17g}") != told:
            raise _fixed(name)


def _fixed(name: str) -> Fixed:
    return Fixed(f"something sensitive stands in {name.removeprefix('spillway.v1.')}, which cannot be changed")


def _text(name: str, text: str, put: Put, *, whole: bool) -> str:
    if not text:
        return text
    if (name in JSON_TEXTS or name in MAY_BE_JSON) and not whole and _is_json(text):
        return _STRING.sub(lambda found: _string(found[0], put), text)
    said = put(text)
    if said != text and (name in FIXED or (name in JSON_TEXTS and _is_json(text) and not _is_json(said))):
        raise _fixed(name)
    return said


def _string(literal: str, put: Put) -> str:
    text: str = json.loads(literal, strict=False)
    if not text.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in text):
        raise Fixed("half a character stands in its JSON")
    said = put(text) if text else text
    return literal if said == text else json.dumps(said, ensure_ascii=False)


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True
