"""A conversation as chat templates take it, from the contract's messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from services.local_engine.support import invalid, unsupported
from spillway import v1

ROLES = {v1.ROLE_SYSTEM: "system", v1.ROLE_USER: "user", v1.ROLE_ASSISTANT: "assistant"}


@dataclass(frozen=True, slots=True)
class ImageForm:
    """How the model's template takes images."""

    placeholder: Callable[[int], str] | None
    """Returns what stands for the nth image, from 1, in a message's text; None: the template takes parts and knows."""
    reserved: frozenset[str] = frozenset()
    """What the caller's text may not hold beside images: the image would be put there."""


def told(chat: v1.Chat, form: ImageForm | None = None, *, tools: bool = False) -> list[dict[str, Any]]:
    """Return the messages of `chat` as templates take them.

    Raises ConstraintUnsupported for images where there is no `form`, and for tools where the template has none;
    RequestInvalid for reserved text and for what stands in the wrong message.
    """
    plain: list[dict[str, Any]] = []
    images = 0
    reserved = form.reserved if form is not None and has_images(chat) else frozenset()
    for index, message in enumerate(chat.messages):
        place = f"spec.chat.messages[{index}]"
        if message.role == v1.ROLE_TOOL:
            if not tools:
                raise unsupported(f"{place}.role", "tools are not supported here")
            plain.extend(_results(message, place))
            continue
        _require_readable(message, place, form, reserved, tools=tools)
        content: str | list[dict[str, str]] = "".join(part.text for part in message.parts)
        if form is not None and form.placeholder is None:
            content = _parts(message.parts)
        elif form is not None and form.placeholder is not None:
            content, images = _marked(message.parts, form.placeholder, images)
        named = {"name": message.name} if message.name else {}
        calls = [_call(part.tool_call) for part in message.parts if part.HasField("tool_call")]
        called = {"tool_calls": calls} if calls else {}
        plain.append({"role": ROLES[message.role], "content": content, **named, **called})
    return plain


def has_images(chat: v1.Chat) -> bool:
    """Whether there is an image in `chat`."""
    return any(part.HasField("image") for message in chat.messages for part in message.parts)


def _require_readable(
    message: v1.Message, place: str, form: ImageForm | None, reserved: frozenset[str], *, tools: bool
) -> None:
    for index, part in enumerate(message.parts):
        field = f"{place}.parts[{index}]"
        match part.WhichOneof("part"):
            case "image" if form is None:
                raise unsupported(f"{field}.image", "this model reads no images")
            case "tool_call" | "tool_result" as kind if not tools:
                raise unsupported(f"{field}.{kind}", "tools are not supported here")
            case "tool_result":
                raise invalid(f"{field}.tool_result", "stands in a message of the role tool alone")
            case "tool_call" if message.role != v1.ROLE_ASSISTANT:
                raise invalid(f"{field}.tool_call", "stands in a message of the assistant alone")
            case "text":
                require_unreserved(part.text, f"{field}.text", reserved)


def require_unreserved(text: str, field: str, reserved: frozenset[str]) -> None:
    """Raise RequestInvalid where the `text` of `field` holds what stands for an image."""
    if found := next((held for held in reserved if held in text), None):
        raise invalid(field, f"holds {found!r}, which stands for an image here")


def _parts(parts: Sequence[v1.Part]) -> list[dict[str, str]]:
    """Return texts and images; texts beside each other are one, here as elsewhere."""
    told: list[dict[str, str]] = []
    for part in parts:
        if part.HasField("image"):
            told.append({"type": "image"})
        elif part.HasField("text"):
            if not told or told[-1]["type"] != "text":
                told.append({"type": "text", "text": ""})
            told[-1]["text"] += part.text
    return told


def _marked(parts: Sequence[v1.Part], placeholder: Callable[[int], str], images: int) -> tuple[str, int]:
    """Return the text with its images marked, one a line, and how many images there have been by now."""
    lines = [""]
    for part in parts:
        if part.HasField("image"):
            images += 1
            lines += [placeholder(images), ""]
        else:
            lines[-1] += part.text
    return "\n".join(filter(None, lines)), images


def _results(message: v1.Message, place: str) -> Iterator[dict[str, Any]]:
    for index, part in enumerate(message.parts):
        if not part.HasField("tool_result"):
            raise invalid(f"{place}.parts[{index}]", "a tool message holds tool results alone")
        yield {"role": "tool", "content": part.tool_result.content, "tool_call_id": part.tool_result.tool_call_id}


def _call(call: v1.ToolCall) -> dict[str, Any]:
    """Return `call` as vLLM's own server gives it to templates: arguments are an object, an empty one if they are none.

    A call that was cut off stays in the conversation; refusing it would end the conversation for good.
    """
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
