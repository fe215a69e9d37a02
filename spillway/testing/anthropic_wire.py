"""Anthropic's messages as they are on the wire: bodies, events and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from spillway.testing.anthropic_rules import REDACTED, blocks, signature
from spillway.testing.openai_faults import Status
from spillway.testing.openai_wire import Called, pieces, tokens_of

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
OWN = {
    "insufficient_quota": Status(402, message="Your credit balance is too low to access the Anthropic API."),
    "context_length_exceeded": Status(400, message="prompt is too long: 9000 tokens > 8192 maximum"),
    "content_policy_violation": Status(400, message="Output blocked by content filtering policy"),
}
"""What OpenAI has a code for -> how it is said here."""
Event = tuple[str, dict[str, Any]]


@dataclass(slots=True)
class Reply:
    """What the simulated model makes of a request. `redacted`: its thoughts come encrypted."""

    tokens: list[str] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    redacted: bool = False
    stop_reason: str = "end_turn"
    stop_sequence: str | None = None

    @property
    def size(self) -> int:
        """Tokens of it."""
        return len(self.thoughts) + len(self.tokens) + sum(len(pieces(call.arguments)) for call in self.calls)


def prompt_text(body: Mapping[str, Any]) -> str:
    """The text of the last message of the user's that has one."""
    for message in reversed(body["messages"]):
        text = " ".join(block["text"] for block in blocks(message["content"]) if block["type"] == "text")
        if message["role"] == "user" and text:
            return text
    return ""


def prompt_blocks(body: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], int]]:
    """The blocks of the prompt, with the tokens that the simulator counts of each: its words, and three."""
    contents = (body.get("system"), *(message["content"] for message in body["messages"]))
    said = [(block, block.get("text") or block.get("content")) for content in contents for block in blocks(content)]
    return [(block, 3 + (len(tokens_of(text)) if isinstance(text, str) else 1)) for block, text in said]


def message(reply: Reply, *, id: str, model: str, usage: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer."""
    content: list[dict[str, Any]] = []
    if reply.thoughts:
        content.append(_thought(reply, "".join(reply.thoughts)))
    if reply.tokens:
        content.append({"type": "text", "text": "".join(reply.tokens)})
    for at, call in enumerate(reply.calls):
        content.append({**_call(call, at), "input": json.loads(call.arguments)})
    return _message(content, reply.stop_reason, reply.stop_sequence, id=id, model=model, usage=usage)


def events(reply: Reply, *, id: str, model: str, usage: Mapping[str, Any]) -> Iterator[tuple[Event, bool]]:
    """Yield the events of a stream, and of each whether it is one token of the answer."""
    started = _message([], None, None, id=id, model=model, usage={**usage, "output_tokens": 1})
    yield ("message_start", {"message": started}), False
    for index, (opening, deltas) in enumerate(_contents(reply)):
        yield ("content_block_start", {"index": index, "content_block": opening}), False
        if index == 0:
            yield ("ping", {}), False
        for delta in deltas:
            token = delta["type"] != "signature_delta"
            yield ("content_block_delta", {"index": index, "delta": delta}), token
        yield ("content_block_stop", {"index": index}), False
    ended = {"stop_reason": reply.stop_reason, "stop_sequence": reply.stop_sequence, "stop_details": None}
    counted = {name: value for name, value in usage.items() if name.endswith(("_tokens", "_details"))}
    yield ("message_delta", {"delta": ended, "usage": counted}), False
    yield ("message_stop", {}), False


def event(name: str, told: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    data = json.dumps({"type": name, **told}, separators=(",", ":"), ensure_ascii=False)
    return f"event: {name}\ndata: {data}\n\n".encode()


def translated(status: Status) -> Status:
    """A scripted error as this provider has it."""
    if status.code in OWN:
        return OWN[status.code]
    if status.status == 503:
        return Status(529, message="Overloaded", headers=status.headers)
    return status


def error_body(status: Status, request_id: str) -> dict[str, Any]:
    """The body of an error."""
    kind = TYPES.get(status.status, "invalid_request_error" if status.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": status.message}, "request_id": request_id}


def stream_error(code: object, kind: str, said: str) -> dict[str, Any]:
    """What an `error` event holds: `code` is its status outside a stream, `kind` its type if that is one."""
    status = code if isinstance(code, int) else 500
    return {"error": {"type": kind if kind in TYPES.values() else TYPES.get(status, "api_error"), "message": said}}


def _message(
    content: list[dict[str, Any]],
    stop_reason: str | None,
    stop_sequence: str | None,
    *,
    id: str,
    model: str,
    usage: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "stop_details": None,
        "usage": usage,
    }


def _thought(reply: Reply, text: str) -> dict[str, Any]:
    if reply.redacted:
        return {"type": "redacted_thinking", "data": REDACTED}
    return {"type": "thinking", "thinking": text, "signature": signature(text) if text else ""}


def _call(call: Called, at: int) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": f"toolu_simulated_{at}",
        "name": call.name,
        "input": {},
        "caller": {"type": "direct"},
    }


def _contents(reply: Reply) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield how every block begins, and the deltas it comes in."""
    if reply.thoughts:
        deltas = [{"type": "thinking_delta", "thinking": token} for token in reply.thoughts]
        deltas.append({"type": "signature_delta", "signature": signature("".join(reply.thoughts))})
        yield _thought(reply, ""), [] if reply.redacted else deltas
    if reply.tokens:
        yield {"type": "text", "text": ""}, [{"type": "text_delta", "text": token} for token in reply.tokens]
    for at, call in enumerate(reply.calls):
        cut = ["", *pieces(call.arguments)] if call.arguments != "{}" else [""]
        yield _call(call, at), [{"type": "input_json_delta", "partial_json": piece} for piece in cut]
