"""The events of Anthropic's messages, read into deltas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jiter

from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.wires.anthropic_errors import in_stream
from spillway import v1
from spillway.errors import ContentFiltered, ProviderError
from spillway.openai.answer import FOREIGN

WIRE = "anthropic"
FINISHES = {
    "end_turn": v1.FINISH_REASON_STOP,
    "stop_sequence": v1.FINISH_REASON_STOP_SEQUENCE,
    "max_tokens": v1.FINISH_REASON_LENGTH,
    "model_context_window_exceeded": v1.FINISH_REASON_LENGTH,
    # The provider's own tools (they come through `extra`) took too many turns: what is there is cut, not whole.
    "pause_turn": v1.FINISH_REASON_LENGTH,
    "tool_use": v1.FINISH_REASON_TOOL_CALLS,
    "refusal": v1.FINISH_REASON_CONTENT_FILTER,
}
"""Any other reason is no end of a whole answer."""
THOUGHTS = ("thinking", "redacted_thinking")
PROMPT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class Answer:
    """One answer on its way. Everything read at once is merged into one delta.

    Events and blocks of unknown types are read over, as the provider asks of its clients.
    """

    def __init__(self, provider: str, exchange: Exchange) -> None:
        self._provider = provider
        self._exchange = exchange
        self._calls: dict[int, int] = {}
        self._empty: set[int] = set()
        self._thoughts: dict[int, tuple[int, dict[str, Any]]] = {}
        self._spoken = False
        self._usage: dict[str, Any] = {}
        self._finish: v1.ChoiceFinish | None = None
        self.done = False

    def take(self, events: Iterable[bytes]) -> list[v1.Delta]:
        """Read the data of `events`. Raises what an error among them means, and ProviderError."""
        delta = v1.Delta()
        try:
            for data in events:
                if not self.done:
                    self._event(jiter.from_json(data), delta)
        except FOREIGN as error:
            raise self._garbled(error) from None
        return self._told(delta)

    def whole(self, body: bytes) -> list[v1.Delta]:
        """Read an answer that came in one piece."""
        delta = v1.Delta()
        try:
            message = jiter.from_json(body)
            if message["type"] == "error":
                self._event(message, delta)
            self._about(message)
            for index, block in enumerate(message["content"]):
                self._begin(index, block, delta)
                self._end(index, delta)
            self._stop(message)
            self._close(delta)
        except FOREIGN as error:
            raise self._garbled(error) from None
        return self._told(delta)

    def check(self) -> None:
        """Raise unless the whole answer is there; else tell the exchange how it ended."""
        if not self.done or self._finish is None:
            said = "gave no stop reason that is known" if self.done else "broke the answer off"
            raise ProviderError(f"{self._provider} {said}", resource=self._provider)
        if self._finish.reason == v1.FINISH_REASON_CONTENT_FILTER and not self._exchange.said_bytes:
            raise ContentFiltered(f"{self._provider} refused to answer", resource=self._provider)
        self._exchange.finishes = [self._finish]

    def _event(self, event: Mapping[str, Any], delta: v1.Delta) -> None:
        match event["type"]:
            case "message_start":
                self._about(event["message"])
            case "content_block_start":
                self._begin(event["index"], event["content_block"], delta)
            case "content_block_delta":
                self._piece(event["index"], event["delta"], delta)
            case "content_block_stop":
                self._end(event["index"], delta)
            case "message_delta":
                self._stop({**event["delta"], "usage": event.get("usage")})
            case "message_stop":
                self._close(delta)
            case "error":
                request_id = self._exchange.provider_request_id
                raise in_stream(self._provider, event.get("error"), request_id=request_id)

    def _about(self, message: Mapping[str, Any]) -> None:
        self._exchange.model = str(message.get("model") or "")[:200]
        # How much is said is known at the end alone: what a stream begins with is the count so far.
        self._count({name: value for name, value in (message.get("usage") or {}).items() if name in PROMPT})

    def _begin(self, index: int, block: Mapping[str, Any], delta: v1.Delta) -> None:
        match block["type"]:
            case "text":
                self._say(block.get("text") or "", delta)
            case "tool_use":
                at = self._calls[index] = len(self._calls)
                arguments = json.dumps(block["input"], ensure_ascii=False) if block.get("input") else ""
                if not arguments:
                    self._empty.add(index)
                delta.tool_calls.add(index=at, id=block["id"], name=block["name"], arguments=arguments)
            case "thinking" | "redacted_thinking":
                self._thoughts[index] = (int(self._spoken) + len(self._calls), dict(block))
                if block["type"] == "thinking":
                    self._thoughts[index][1].setdefault("thinking", "")
                delta.reasoning += block.get("thinking") or ""

    def _piece(self, index: int, piece: Mapping[str, Any], delta: v1.Delta) -> None:
        match piece["type"]:
            case "text_delta":
                self._say(piece["text"], delta)
            case "input_json_delta" if index in self._calls and piece["partial_json"]:
                self._empty.discard(index)
                self._argue(self._calls[index], piece["partial_json"], delta)
            case "thinking_delta":
                self._thoughts[index][1]["thinking"] += piece["thinking"]
                delta.reasoning += piece["thinking"]
            case "signature_delta":
                self._thoughts[index][1]["signature"] = piece["signature"]

    def _say(self, text: str, delta: v1.Delta) -> None:
        delta.text += text
        self._spoken = self._spoken or bool(text)

    def _argue(self, at: int, arguments: str, delta: v1.Delta) -> None:
        known = next((call for call in delta.tool_calls if call.index == at), None)
        if known is None:
            known = delta.tool_calls.add(index=at)
        known.arguments += arguments

    def _end(self, index: int, delta: v1.Delta) -> None:
        if index in self._empty:  # a call without arguments: nothing comes between its start and its end
            self._empty.discard(index)
            self._argue(self._calls[index], "{}", delta)

    def _stop(self, told: Mapping[str, Any]) -> None:
        self._count(told.get("usage") or {})
        reason = FINISHES.get(str(told.get("stop_reason")))
        if reason is not None:
            self._finish = v1.ChoiceFinish(reason=reason, stop_string=told.get("stop_sequence") or "")

    def _close(self, delta: v1.Delta) -> None:
        self.done = True
        # One that lacks its signature is of a stream that was cut: the provider would refuse it.
        kept = [thought for thought in self._thoughts.values() if thought[1].get("signature") or "data" in thought[1]]
        if kept:
            state = json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode()
            delta.provider_state.CopyFrom(v1.ProviderState(wire=WIRE, state=state))

    def _count(self, told: Mapping[str, Any]) -> None:
        """Remember what is `told`: always of the whole answer so far, never of what is new."""
        self._usage.update({name: value for name, value in told.items() if value is not None})
        known, usage = self._usage, v1.Usage()
        if "input_tokens" in known:
            usage.prompt_tokens = sum(known.get(name, 0) for name in PROMPT)
        for name, value in (
            ("cached_prompt_tokens", known.get("cache_read_input_tokens")),
            ("cache_write_prompt_tokens", known.get("cache_creation_input_tokens")),
            ("completion_tokens", known.get("output_tokens")),
            ("reasoning_tokens", (known.get("output_tokens_details") or {}).get("thinking_tokens")),
        ):
            if value is not None:
                setattr(usage, name, value)
        self._exchange.usage = usage

    def _told(self, delta: v1.Delta) -> list[v1.Delta]:
        if not delta.ListFields():
            return []
        calls = sum(len(call.name) + len(call.arguments.encode()) for call in delta.tool_calls)
        self._exchange.said_bytes += len(delta.text.encode()) + len(delta.reasoning.encode()) + calls
        return [delta]

    def _garbled(self, error: Exception) -> ProviderError:
        return ProviderError(
            f"{self._provider} sent an event that is not of its wire format ({type(error).__name__})",
            resource=self._provider,
        )

    def __repr__(self) -> str:
        state = "whole" if self.done else "on its way"
        return f"<Answer of {self._provider}, {state}: {self._exchange.said_bytes} bytes, {len(self._calls)} calls>"
