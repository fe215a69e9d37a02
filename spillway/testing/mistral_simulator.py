"""A simulated Mistral: chat completions, fill-in-the-middle and embeddings in Mistral's own forms, which says so.

python -m spillway.testing.mistral_simulator --port 7082
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from spillway.testing import openai_wire as wire
from spillway.testing.http_simulator import main
from spillway.testing.openai_faults import Status
from spillway.testing.openai_simulator import OpenAISimulator, now
from spillway.testing.openai_wire import Reply

PARAMETERS = frozenset(
    {
        "model",
        "messages",
        "stream",
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "random_seed",
        "metadata",
        "response_format",
        "tools",
        "tool_choice",
        "presence_penalty",
        "frequency_penalty",
        "min_tokens",
        "repetition_penalty",
        "top_k",
        "logprobs",
        "top_logprobs",
        "n",
        "prediction",
        "parallel_tool_calls",
        "reasoning_effort",
        "prompt_mode",
        "prompt_cache_key",
        "service_tier",
        "safe_prompt",
    }
)
"""Of a chat completion; any other is refused. From the request models of the official client (mistralai 3.7)."""
MIDDLE_PARAMETERS = frozenset(
    {
        "model",
        "prompt",
        "suffix",
        "stream",
        "temperature",
        "top_p",
        "max_tokens",
        "min_tokens",
        "stop",
        "random_seed",
        "metadata",
        "prompt_cache_key",
    }
)
EMBEDDING_PARAMETERS = frozenset({"model", "input", "metadata", "output_dimension", "output_dtype", "encoding_format"})
MESSAGE_FIELDS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls", "prefix"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}
OWN_CODES: Mapping[str | None, tuple[str, str]] = {
    "rate_limit_exceeded": ("rate_limited", "1300"),
    "model_not_found": ("invalid_model", "1500"),
}
"""An error of the script -> type and code in Mistral's words."""
_CALL_ID = re.compile(r"[A-Za-z0-9]{9}")


@dataclass(slots=True)
class MistralSimulator(OpenAISimulator):
    """What is answered, how fast, and what goes wrong: as of the simulated OpenAI.

    `thinking`: pieces of reasoning that come before the answer; `signature`: what it is signed with.
    """

    tells_usage: bool = True
    thinking: tuple[str, ...] = ()
    signature: str | None = None

    def application(self) -> web.Application:
        application = OpenAISimulator.application(self)
        application.router.add_post("/v1/fim/completions", self.record)
        return application

    async def served(self, request: web.Request, body: Any) -> web.StreamResponse:
        place = request.path.removeprefix("/v1/")
        if refused := self._refused_key(request) or _wrong(place, body):
            return self._error(refused)
        return await OpenAISimulator.served(self, request, _in_openais_words(place, body))

    def chunks(self, body: Mapping[str, Any], replies: list[Reply]) -> Iterator[dict[str, Any]]:
        """A stream's choices: thoughts one by one, calls whole, and the finish reason with the last words."""
        for reply in replies:
            yield _choice(reply, {"role": "assistant", "content": ""})
        for reply in replies:
            for thought in self._thoughts():
                yield _choice(reply, {"content": [thought]})
            for at, token in enumerate(reply.tokens):
                last = at + 1 == len(reply.tokens)
                yield _choice(reply, {"content": token}, finish=reply.finish if last else None)
            if reply.calls:
                calls = [{**_call(reply, at), "index": at} for at in range(len(reply.calls))]
                yield _choice(reply, {"content": "", "tool_calls": calls}, finish=reply.finish)
            elif not reply.tokens:
                yield _choice(reply, {"content": ""}, finish=reply.finish)

    def told(self, answer: dict[str, Any]) -> dict[str, Any]:
        if error := answer.get("error"):
            return _error_object(Status(500, error["code"], error["type"], error["message"]))
        for name in ("service_tier", "system_fingerprint"):
            answer.pop(name, None)
        if usage := answer.get("usage"):
            usage.pop("completion_tokens_details", None)
        for choice in answer["choices"]:
            if (message := choice.get("message")) is None:
                continue
            calls = message.get("tool_calls")
            choice["message"] = {"role": "assistant", "tool_calls": calls, "content": message["content"] or ""}
            for at, call in enumerate(calls or ()):
                call["id"] = _call_id(choice["index"], at)
            if thoughts := self._thoughts():
                choice["message"]["content"] = [*thoughts, {"type": "text", "text": message["content"] or ""}]
        return answer

    def _thoughts(self) -> list[dict[str, Any]]:
        thoughts: list[dict[str, Any]] = [
            {"type": "thinking", "thinking": [{"type": "text", "text": text}]} for text in self.thinking
        ]
        if thoughts and self.signature is not None:
            thoughts[-1]["signature"] = self.signature
        return thoughts

    def _refused_key(self, request: web.Request) -> Status | None:
        if OpenAISimulator._refused_key(self, request) is None:
            return None
        return Status(401, message="Unauthorized")

    def _error(self, status: Status) -> web.Response:
        headers = {**self._limit_headers(), **status.headers}
        if status.status == 401:
            return web.json_response({"detail": status.message}, status=401, headers=headers)
        if status.status == 422:
            wrong = {"type": status.code, "loc": ["body", *str(status.param).split(".")], "msg": status.message}
            return web.json_response({"detail": [wrong]}, status=422, headers=headers)
        return web.json_response(_error_object(status), status=status.status, headers=headers)

    def _limit_headers(self) -> dict[str, str]:
        requests = self.limits.requests
        return {
            "mistral-correlation-id": f"simulated-{len(self.seen)}",
            "x-ratelimit-limit-req-minute": str(requests.per_minute),
            "x-ratelimit-remaining-req-minute": str(requests.left(now())),
        }

    def __repr__(self) -> str:
        return f"<MistralSimulator {self.running} running, {len(self.seen)} seen>"


def _wrong(place: str, body: object) -> Status | None:
    """What Mistral would say against `body` at `place`, if anything."""
    if not isinstance(body, Mapping):
        return _invalid("json_invalid", "0")
    known = {"embeddings": EMBEDDING_PARAMETERS, "fim/completions": MIDDLE_PARAMETERS}.get(place, PARAMETERS)
    if unknown := sorted(set(body) - known):
        return _invalid("extra_forbidden", unknown[0])
    needed = {"embeddings": "input", "fim/completions": "prompt"}.get(place, "messages")
    if missing := [name for name in ("model", needed) if not body.get(name)]:
        return _invalid("missing", missing[0])
    messages = body.get("messages") or []
    for at, message in enumerate(messages):
        if unknown := sorted(set(message) - MESSAGE_FIELDS[message["role"]]):
            return _invalid("extra_forbidden", f"messages.{at}.{message['role']}.{unknown[0]}")
        ids = [call["id"] for call in message.get("tool_calls") or ()]
        ids += [message["tool_call_id"]] if "tool_call_id" in message else []
        if any(not _CALL_ID.fullmatch(id) for id in ids):
            said = "Tool call id must be a-z, A-Z, 0-9, with a length of 9."
            return Status(400, "3280", "invalid_function_call", said)
    if messages and messages[-1]["role"] == "assistant" and not messages[-1].get("prefix"):
        said = "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"
        return Status(400, "3230", "invalid_request_message_order", said)
    return None


def _invalid(kind: str, place: str) -> Status:
    return Status(422, kind, message="Extra inputs are not permitted", param=place)


def _in_openais_words(place: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with what Mistral alone says in the words of the simulator beneath, or left out where that has none.

    The beginning of an answer is left out too: Mistral repeats it.
    """
    told = {name: value for name, value in body.items() if name in wire.PARAMETERS | wire.EMBEDDING_PARAMETERS}
    if "output_dimension" in body:
        told["dimensions"] = body["output_dimension"]
    if place == "fim/completions":
        told["messages"] = [{"role": "user", "content": f"{body['prompt']} {body.get('suffix') or ''}"}]
    if body.get("tool_choice") == "any":
        told["tool_choice"] = "required"
    if "messages" in told and told["messages"][-1]["role"] == "assistant":
        told["messages"] = told["messages"][:-1]
    return told


def _error_object(status: Status) -> dict[str, Any]:
    kind, code = OWN_CODES.get(status.code, (status.type, status.code))
    return {
        "object": "error",
        "message": status.message,
        "type": kind,
        "param": None,
        "code": code,
        "raw_status_code": status.status,
    }


def _choice(reply: Reply, delta: dict[str, Any], *, finish: str | None = None) -> dict[str, Any]:
    return {"index": reply.index, "delta": delta, "finish_reason": finish}


def _call(reply: Reply, at: int) -> dict[str, Any]:
    called = reply.calls[at]
    return {
        "id": _call_id(reply.index, at),
        "type": "function",
        "function": {"name": called.name, "arguments": json.dumps(json.loads(called.arguments))},
    }


def _call_id(choice: int, at: int) -> str:
    return f"simcall{choice % 10}{at % 10}"


if __name__ == "__main__":
    main("spillway.testing.mistral_simulator", MistralSimulator, port=7082)
