"""A simulated Anthropic: a real HTTP server of its Messages API, which says that it is simulated.

python -m spillway.testing.anthropic_simulator --port 7080
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from spillway.testing import anthropic_wire as wire
from spillway.testing.anthropic_rules import blocks, wrong
from spillway.testing.anthropic_wire import Reply
from spillway.testing.faults import Garbage
from spillway.testing.http_simulator import MAX_BODY_BYTES, HttpSimulator, drop, main, simulated_words
from spillway.testing.openai_faults import (
    BREAKING,
    Cut,
    ErrorInStream,
    Filtered,
    HttpFault,
    Malformed,
    MissingDone,
    MissingFinish,
    Refusal,
    Stall,
    Status,
)
from spillway.testing.openai_instance import instance
from spillway.testing.openai_wire import Called, tokens_of

THOUGHT = "Simulated thought."


def simulated_answer(body: Mapping[str, Any]) -> str:
    """The plain answer: that it is simulated, and what was asked."""
    return simulated_words(wire.prompt_text(body))


@dataclass(slots=True)
class AnthropicSimulator(HttpSimulator):
    """What is answered, how fast, and what goes wrong.

    `answer` gets the request's body and returns the text; it is not asked where a JSON Schema or a tool decides.
    `calls` returns the tools that the model calls; by default only those that the request demands. `thought`: what a
    model that is to think thinks; `redacted`: it comes encrypted. `takes_prefill`: a conversation may end with words of
    the assistant's, and the answer goes on after them. What is marked is kept as long as the simulator, and counted.
    """

    answer: Callable[[Mapping[str, Any]], str] = simulated_answer
    calls: Callable[[Mapping[str, Any]], list[Called]] | None = None
    thought: str = THOUGHT
    redacted: bool = False
    takes_prefill: bool = False
    requests_per_minute: int = 10_000
    kept: set[str] = field(default_factory=set)

    def application(self) -> web.Application:
        """The routes of the provider."""
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_post("/v1/messages", self.record)
        application.router.add_get("/v1/models", self._list)
        return application

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refused_key(request):
            return self._error(refused)
        names = self.models or ("claude-simulated",)
        data = [
            {
                "id": name,
                "type": "model",
                "display_name": name,
                "created_at": "2026-01-01T00:00:00Z",
                "lifecycle": "active",
            }
            for name in names
        ]
        return web.json_response({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})

    async def served(self, request: web.Request, body: Any) -> web.StreamResponse:
        fault = self.faults.next()
        version = request.headers.get("anthropic-version", "")
        refused = self._refused_key(request) or wrong(body, version, takes_prefill=self.takes_prefill)
        if refused := refused or self._unknown(body):
            return self._error(refused)
        failed = await self.failed(request, fault, lambda status: self._error(wire.translated(status)))
        if failed is not None:
            return failed
        reply = self._reply(body, fault)
        told = {"id": f"msg_simulated{len(self.seen)}", "model": body["model"], "usage": self._usage(body, reply)}
        if body.get("stream"):
            return await self._stream(request, reply, told, fault)
        if isinstance(fault, Cut):
            drop(request)
        return web.json_response(wire.message(reply, **told), headers=self._headers())

    async def _stream(
        self, request: web.Request, reply: Reply, told: Mapping[str, Any], fault: HttpFault | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", **self._headers()})
        await response.prepare(request)
        breaks_at = fault.after if isinstance(fault, BREAKING) else None
        said = 0
        for (name, event), token in wire.events(reply, **told):
            if token or name == "message_delta":
                if breaks_at is not None and said >= breaks_at:
                    return await self._broken(request, response, fault)
                if self.interval_s:
                    await asyncio.sleep(self.interval_s)
                said += token
            if name == "message_stop" and isinstance(fault, MissingDone):
                break
            await response.write(wire.event(name, event))
        await response.write_eof()
        return response

    async def _broken(
        self, request: web.Request, response: web.StreamResponse, fault: HttpFault | None
    ) -> web.StreamResponse:
        match fault:
            case Cut():
                drop(request)
            case Stall():
                await asyncio.Event().wait()
            case Malformed():
                await response.write(b'event: content_block_delta\ndata: {"type": "content_block_delta", "in\n\n')
            case ErrorInStream():
                error = wire.stream_error(fault.code, fault.type, fault.message)
                await response.write(wire.event("error", error))
            case MissingFinish():
                await response.write(wire.event("message_stop", {}))
            case Filtered():
                ended = {"stop_reason": "refusal", "stop_sequence": None}
                await response.write(wire.event("message_delta", {"delta": ended, "usage": {"output_tokens": 1}}))
                await response.write(wire.event("message_stop", {}))
        return response

    def _reply(self, body: Mapping[str, Any], fault: HttpFault | None) -> Reply:
        if isinstance(fault, Refusal):
            return Reply(tokens=tokens_of(fault.text), stop_reason="refusal")
        thinks = (body.get("thinking") or {"type": "disabled"})["type"] != "disabled"
        thoughts = tokens_of(self.thought) if thinks else []
        if calls := self.calls(body) if self.calls else _demanded(body):
            return Reply(calls=calls, thoughts=thoughts, redacted=self.redacted, stop_reason="tool_use")
        text = fault.text if isinstance(fault, Garbage) else self._text(body)
        if (last := body["messages"][-1])["role"] == "assistant":
            text = text.removeprefix(blocks(last["content"])[-1].get("text", ""))
        reply = Reply(thoughts=thoughts, redacted=self.redacted)
        found = [(text.find(one), one) for one in body.get("stop_sequences") or () if one in text]
        if found:
            place, reply.stop_sequence = min(found)
            text, reply.stop_reason = text[:place], "stop_sequence"
        left = max(0, body["max_tokens"] - len(thoughts))
        reply.tokens = tokens_of(text)
        if len(reply.tokens) > left:
            reply.tokens, reply.stop_reason, reply.stop_sequence = reply.tokens[:left], "max_tokens", None
        return reply

    def _text(self, body: Mapping[str, Any]) -> str:
        form = (body.get("output_config") or {}).get("format")
        return json.dumps(instance(form["schema"])) if form else self.answer(body)

    def _usage(self, body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
        """What is counted: what is marked is written to the cache once, and read from it after that."""
        prompt = wire.prompt_blocks(body)
        last = max((at for at, (block, _) in enumerate(prompt) if block.get("cache_control")), default=-1)
        prefix, key = sum(count for _, count in prompt[: last + 1]), json.dumps(prompt[: last + 1])
        written, read = (0, prefix) if key in self.kept else (prefix, 0)
        self.kept.add(key)
        usage = {
            "input_tokens": sum(count for _, count in prompt) - prefix,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
            "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
            "output_tokens": reply.size,
            "service_tier": "standard",
        }
        if reply.thoughts:
            usage["output_tokens_details"] = {"thinking_tokens": len(reply.thoughts)}
        return usage

    def _refused_key(self, request: web.Request) -> Status | None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        key = request.headers.get("x-api-key") or bearer
        return None if self.key in (None, key) else Status(401, message="invalid x-api-key")

    def _unknown(self, body: Mapping[str, Any]) -> Status | None:
        if self.models is None or body["model"] in self.models:
            return None
        return Status(404, message=f"model: {body['model']}")

    def _error(self, status: Status) -> web.Response:
        headers = {**self._headers(), **status.headers}
        return web.json_response(wire.error_body(status, headers["request-id"]), status=status.status, headers=headers)

    def _headers(self) -> dict[str, str]:
        return {
            "request-id": f"req_simulated_{len(self.seen)}",
            "anthropic-organization-id": "simulated",
            "anthropic-ratelimit-requests-limit": str(self.requests_per_minute),
            "anthropic-ratelimit-requests-remaining": str(max(0, self.requests_per_minute - len(self.seen))),
            "anthropic-ratelimit-requests-reset": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def __repr__(self) -> str:
        return f"<AnthropicSimulator {self.running} running, {len(self.seen)} seen>"


def _demanded(body: Mapping[str, Any]) -> list[Called]:
    """The tool a request demands, with the least arguments its schema allows."""
    choice, tools = body.get("tool_choice") or {}, body.get("tools") or ()
    if choice.get("type") not in ("any", "tool"):
        return []
    wanted = [tool for tool in tools if choice["type"] == "any" or tool["name"] == choice["name"]]
    return [Called(tool["name"], json.dumps(instance(tool["input_schema"]) or {})) for tool in wanted[:1]]


if __name__ == "__main__":
    main("spillway.testing.anthropic_simulator", AnthropicSimulator, port=7080)
