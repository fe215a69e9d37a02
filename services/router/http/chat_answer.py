"""An answer as a chat completion: whole, or as chunks."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from spillway import v1

from .answer import Frame, encode, encode_text, finish_reason, usage_of


def whole(response: v1.GenerateResponse, created: int) -> dict[str, Any]:
    """The body of a chat completion. `created`: seconds since the epoch."""
    return {
        "id": f"chatcmpl-{response.started.request_id}",
        "object": "chat.completion",
        "created": created,
        "model": response.started.model,
        "choices": [_choice(index, choice) for index, choice in enumerate(response.choices)],
        "usage": usage_of(response.usage),
    }


def _choice(index: int, choice: v1.Choice) -> dict[str, Any]:
    content = choice.content
    message: dict[str, Any] = {"role": "assistant", "content": content.text, "refusal": None}
    if content.tool_calls:
        message["content"] = content.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in content.tool_calls
        ]
    if content.reasoning:
        message["reasoning_content"] = content.reasoning
    if content.HasField("provider_state"):
        message["provider_state"] = _state(content.provider_state)
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(content.logprobs),
        "finish_reason": finish_reason(choice.finish),
    }


class ChatChunks:
    """The chunks of one chat completion. The first of a choice names the role, whatever else it holds."""

    def __init__(self, request_id: str, created: int, *, include_usage: bool) -> None:
        self._frame = Frame("chat.completion.chunk", f"chatcmpl-{request_id}", created, include_usage=include_usage)
        self._named: set[int] = set()
        self._around: dict[int, tuple[str, str]] = {}
        """Choice -> what surrounds its text in every chunk but the first."""

    def begin(self, started: v1.Started) -> None:
        self._frame.begin(started.model)
        self._around.clear()

    def delta(self, delta: v1.Delta) -> str:
        if not (delta.reasoning or delta.tool_calls or delta.logprobs or delta.HasField("provider_state")):
            return self.text(delta.text, delta.choice)
        rest: dict[str, Any] = {}
        if delta.text:
            rest["content"] = delta.text
        if delta.reasoning:
            rest["reasoning_content"] = delta.reasoning
        if delta.tool_calls:
            rest["tool_calls"] = [_piece(call) for call in delta.tool_calls]
        if delta.HasField("provider_state"):
            rest["provider_state"] = _state(delta.provider_state)
        role = self._role(delta.choice)
        told = f"{{{role}{encode(rest)[1:]}" if rest else f"{{{role.rstrip(',')}}}"
        logprobs = encode(_logprobs(delta.logprobs))
        return self._frame.chunk(
            f'{{"index":{delta.choice},"delta":{told},"logprobs":{logprobs},"finish_reason":null}}'
        )

    def text(self, text: str, choice: int = 0) -> str:
        head, tail = self._around.get(choice) or self._surround(choice)
        return head + encode_text(text) + tail

    def finish(self, finished: v1.Finished) -> str:
        return "".join(
            self._frame.chunk(
                f'{{"index":{finish.choice},"delta":{{{self._role(finish.choice).rstrip(",")}}},"logprobs":null,'
                f'"finish_reason":"{finish_reason(finish)}"}}'
            )
            for finish in finished.choices
        )

    def usage(self, usage: v1.Usage) -> str:
        return self._frame.usage(usage)

    def _surround(self, choice: int) -> tuple[str, str]:
        role = self._role(choice)
        head = f'{{"index":{choice},"delta":{{{role}"content":'
        around = self._frame.around(head, '},"logprobs":null,"finish_reason":null}')
        if not role:
            self._around[choice] = around
        return around

    def _role(self, choice: int) -> str:
        if choice in self._named:
            return ""
        self._named.add(choice)
        return '"role":"assistant",'


def _piece(call: v1.ToolCallDelta) -> dict[str, Any]:
    function: dict[str, str] = {"arguments": call.arguments}
    told: dict[str, Any] = {"index": call.index, "function": function}
    if call.id:
        told["id"], told["type"] = call.id, "function"
    if call.name:
        function["name"] = call.name
    return told


def _state(told: v1.ProviderState) -> dict[str, str]:
    """What the caller sends back with this message, unchanged, when the conversation goes on."""
    return {"wire": told.wire, "state": base64.b64encode(told.state).decode()}


def _logprobs(tokens: Sequence[v1.TokenLogprob]) -> dict[str, Any] | None:
    if not tokens:
        return None
    content = [{**_logprob(token), "top_logprobs": [_logprob(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _logprob(told: v1.TokenLogprob | v1.TopLogprob) -> dict[str, Any]:
    return {"token": told.token, "logprob": told.logprob, "bytes": list(told.token.encode())}
