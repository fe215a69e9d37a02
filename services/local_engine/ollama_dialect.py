"""Ollama's own /api/chat: it alone takes the context's length and how long a model stays loaded.

Its OpenAI-style surface cuts a prompt that is too long and says nothing; here it is told not to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jiter

from services.local_engine.openai_dialect import require, with_listed_images
from services.local_engine.presets import OLLAMA, Preset
from services.local_engine.runtime_errors import RUNTIMES
from spillway import v1
from spillway.openai.answer import Answer
from spillway.openai.exchange import Exchange
from spillway.openai.request import body_of
from spillway.openai.sse import MAX_EVENT_BYTES, EventTooLong

OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repeat_penalty",
    "max_tokens": "num_predict",
}
"""OpenAI's name of a parameter, or ours -> Ollama's, among its `options`."""

NATIVE: Preset = replace(OLLAMA, parameters=OLLAMA.parameters | {"top_k", "min_p", "repetition_penalty"})


class OllamaDialect:
    """Requests to /api/chat."""

    path = "/api/chat"

    def __init__(
        self, capabilities: tuple[v1.Capability.ValueType, ...], *, num_ctx: int | None, keep_alive: str | None
    ) -> None:
        self._capabilities = capabilities
        self._num_ctx = num_ctx
        self._keep_alive = keep_alive

    def body(self, spec: v1.GenerationSpec, model: str) -> dict[str, Any]:
        require(spec, NATIVE, self._capabilities)
        with_listed_images(spec, ())  # it takes them as data alone
        openai = body_of(spec, model, max_tokens_field="max_tokens", extended_sampling=True)
        options = {OPTIONS[name]: openai[name] for name in OPTIONS if name in openai}
        if self._num_ctx is not None:
            options["num_ctx"] = self._num_ctx
        body: dict[str, Any] = {
            "model": model,
            "messages": list(_messages(openai["messages"])),
            "stream": True,
            "truncate": False,  # an error, where the prompt is too long
            "shift": False,  # an end, where the answer is
            "options": options,
        }
        if self._keep_alive is not None:
            alive = self._keep_alive
            body["keep_alive"] = int(alive) if alive.lstrip("-").isdecimal() else alive
        if spec.tools and spec.tool_choice.mode != v1.TOOL_CHOICE_MODE_NONE:
            body["tools"] = openai["tools"]
        if (form := openai.get("response_format")) and spec.constraint.enforcement != v1.ENFORCEMENT_CHECKED:
            body["format"] = form["json_schema"]["schema"] if form["type"] == "json_schema" else "json"
        if (effort := openai.get("reasoning_effort")) is not None:
            body["think"] = False if effort == "none" else effort
        body.update({name: openai[name] for name in ("logprobs", "top_logprobs") if name in openai})
        return body

    def reader(self, choices: int, exchange: Exchange) -> LineReader:
        return LineReader(Answer(NATIVE.name, choices, exchange, table=RUNTIMES))

    def __repr__(self) -> str:
        return f"<OllamaDialect num_ctx={self._num_ctx} keep_alive={self._keep_alive}>"


class LineReader:
    """Lines of JSON, read into an answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._tail = b""
        self._calls = 0
        self.check = answer.check

    @property
    def done(self) -> bool:
        return self._answer.done

    def feed(self, data: bytes) -> list[v1.Delta]:
        *lines, self._tail = (self._tail + data).split(b"\n")
        if not data:
            lines, self._tail = [self._tail], b""
        if len(self._tail) > MAX_EVENT_BYTES:
            raise EventTooLong
        return self._answer.read(self._chunks(lines))

    def whole(self, body: bytes) -> list[v1.Delta]:
        return [*self.feed(body), *self.feed(b"")]

    def _chunks(self, lines: list[bytes]) -> Iterator[Mapping[str, Any]]:
        for line in lines:
            if line.strip() and not self._answer.done:
                yield self._chunk(jiter.from_json(line))

    def _chunk(self, told: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return one line as OpenAI would have said it."""
        if told.get("error"):
            return told
        message = told.get("message") or {}
        calls = []
        for call in message.get("tool_calls") or ():
            function = call["function"]
            calls.append(
                {
                    "index": self._calls,
                    "id": call.get("id") or f"call_{self._calls}",
                    "function": {"name": function["name"], "arguments": json.dumps(function.get("arguments") or {})},
                }
            )
            self._calls += 1
        delta = {"content": message.get("content"), "reasoning": message.get("thinking"), "tool_calls": calls}
        choice: dict[str, Any] = {"index": 0, "delta": delta}
        if logprobs := told.get("logprobs"):
            choice["logprobs"] = {"content": logprobs}
        chunk: dict[str, Any] = {"model": told.get("model"), "choices": [choice]}
        if told.get("done"):
            self._answer.done = True
            reason = told.get("done_reason") or "stop"
            choice["finish_reason"] = "tool_calls" if self._calls and reason == "stop" else reason
            chunk["usage"] = {
                "prompt_tokens": told.get("prompt_eval_count"),
                "completion_tokens": told.get("eval_count"),
            }
        return chunk


def _messages(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    names: dict[str, str] = {}
    for message in messages:
        told: dict[str, Any] = {"role": message["role"]}
        content = message["content"]
        if isinstance(content, list):
            urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
            told["images"] = [url.partition("base64,")[2] for url in urls]
            content = "".join(part["text"] for part in content if part["type"] == "text")
        told["content"] = content or ""
        if calls := message.get("tool_calls"):
            names.update({call["id"]: call["function"]["name"] for call in calls})
            told["tool_calls"] = [
                {"function": {"name": call["function"]["name"], "arguments": _object(call["function"]["arguments"])}}
                for call in calls
            ]
        if message["role"] == "tool":
            told["tool_name"] = names.get(message["tool_call_id"], "")
        yield told


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return {}
