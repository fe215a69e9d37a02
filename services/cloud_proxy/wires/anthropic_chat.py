"""A conversation as Anthropic takes it: a system prompt, and turns of the user's and the assistant's, in blocks."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from services.cloud_proxy.wires.anthropic_answer import THOUGHTS, WIRE
from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid

Block = dict[str, Any]
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


@dataclass(slots=True)
class Conversation:
    """What was said, in the provider's shape. Messages of one role that follow one another are one turn."""

    system: list[Block] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    marked: list[Block] = field(default_factory=list)
    """The last block of every message up to which the prompt comes again; those of the system prompt first."""

    def turn(self, role: str) -> list[Block]:
        """Return the blocks of the last turn, if it is of `role`, else of a new one."""
        if not self.turns or self.turns[-1]["role"] != role:
            self.turns.append({"role": role, "content": []})
        content: list[Block] = self.turns[-1]["content"]
        return content

    def thinks_on(self) -> bool:
        """Whether the last answer may be thought on about: it does not wait for tools, or came with its thoughts."""
        if self.turns[-1]["role"] != "user" or not _is_result(self.turns[-1]["content"][0]):
            return True
        asked = len(self.turns)
        while asked and (
            self.turns[asked - 1]["role"] == "assistant" or _is_result(self.turns[asked - 1]["content"][0])
        ):
            asked -= 1
        return self.turns[asked]["content"][0]["type"] in THOUGHTS


def read(spec: v1.GenerationSpec) -> Conversation:
    """Return the conversation of `spec`. Raises ConstraintUnsupported or RequestInvalid naming what does not fit."""
    found = Conversation()
    match spec.WhichOneof("input"):
        case "text" if spec.text.HasField("suffix"):
            raise ConstraintUnsupported.at("spec.text.suffix", "this provider fills in no middle")
        case "text":
            found.turn("user").append(_text(spec.text.text))
        case "chat":
            messages = [(f"spec.chat.messages[{at}]", message) for at, message in enumerate(spec.chat.messages)]
            # What the system says later is said at the top: only the newest models take it in its place.
            messages.sort(key=lambda one: one[1].role != v1.ROLE_SYSTEM)
            for place, message in messages:
                _add(message, place, found)
        case _:
            raise ConstraintUnsupported.at("spec.tokens", "a provider takes text, not token ids of another tokenizer")
    if not found.turns:
        raise RequestInvalid.at("spec.chat.messages", "holds no message of the user's")
    return found


def _add(message: v1.Message, place: str, to: Conversation) -> None:
    if message.name and message.role != v1.ROLE_TOOL:  # a tool is known by the call it answers
        raise ConstraintUnsupported.at(f"{place}.name", "this provider knows no names of speakers")
    blocks = list(_blocks(message, place))
    if not blocks:
        return
    match message.role:
        case v1.ROLE_SYSTEM:
            to.system.extend(blocks)
        case v1.ROLE_ASSISTANT:
            to.turn("assistant").extend(blocks)
        case _:
            turn = to.turn("user")
            turn.extend(blocks)
            turn.sort(key=lambda block: not _is_result(block))  # results of tools stand before anything else
    if message.cache_breakpoint and blocks[-1]["type"] not in THOUGHTS:
        to.marked.append(blocks[-1])


def _blocks(message: v1.Message, place: str) -> Iterator[Block]:
    state: list[Any] = []
    blocks: list[Block] = []
    for at, part in enumerate(message.parts):
        where, kind = f"{place}.parts[{at}]", part.WhichOneof("part")
        match (kind, message.role):
            case ("text", v1.ROLE_SYSTEM | v1.ROLE_USER | v1.ROLE_ASSISTANT):
                if part.text:  # the provider takes no empty block
                    blocks.append(_text(part.text))
            case ("image", v1.ROLE_USER):
                blocks.append({"type": "image", "source": _source(part.image, f"{where}.image")})
            case ("tool_call", v1.ROLE_ASSISTANT):
                blocks.append(_call(part.tool_call, f"{where}.tool_call"))
            case ("tool_result", v1.ROLE_TOOL):
                blocks.append(_result(part.tool_result))
            case ("provider_state", v1.ROLE_ASSISTANT):
                if part.provider_state.wire == WIRE:
                    state = _thoughts(part.provider_state.state, f"{where}.provider_state.state")
            case _:
                role = v1.Role.Name(message.role).removeprefix("ROLE_").lower()
                raise RequestInvalid.at(where, f"a message of the {role} cannot hold a {kind or 'empty part'}")
    for before, thought in reversed(state):
        blocks.insert(before, thought)
    yield from blocks


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _is_result(block: Block) -> bool:
    return bool(block["type"] == "tool_result")


def _call(call: v1.ToolCall, place: str) -> Block:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise RequestInvalid.at(f"{place}.arguments", "is not the JSON of an object, which this provider needs")
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _result(result: v1.ToolResult) -> Block:
    told: Block = {"type": "tool_result", "tool_use_id": result.tool_call_id, "content": result.content}
    if result.is_error:
        told["is_error"] = True
    return told


def _source(image: v1.Image, place: str) -> Block:
    if image.WhichOneof("source") == "url":
        return {"type": "url", "url": image.url}
    if not image.data or not image.mime_type:
        raise RequestInvalid.at(place, "needs a url, or data with its mime_type")
    if image.mime_type not in IMAGE_TYPES:
        raise ConstraintUnsupported.at(f"{place}.mime_type", f"this provider takes {', '.join(sorted(IMAGE_TYPES))}")
    return {"type": "base64", "media_type": image.mime_type, "data": base64.b64encode(image.data).decode()}


def _thoughts(state: bytes, place: str) -> list[tuple[int, Block]]:
    """Return the blocks of thought that came with an answer, and before which of its other blocks each stood."""
    try:
        found = [(int(before), dict(block)) for before, block in json.loads(state)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        found = [(-1, {})]
    if any(before < 0 or block.get("type") not in THOUGHTS for before, block in found):
        raise RequestInvalid.at(place, "is not what this provider's answer came with")
    return found
