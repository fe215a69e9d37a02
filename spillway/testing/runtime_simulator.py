"""Simulated local runtimes: real HTTP servers that speak as llama.cpp, vLLM, Ollama and others do, and say so.

The ways of each are written down here a second time, from its own documentation, so that a request which the real one
would refuse or misread is refused here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from spillway.testing import openai_wire as wire
from spillway.testing.openai_faults import BREAKING, Malformed, Silence, SlowFirst, Status
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai

PLAIN = frozenset({"model", "messages", "stream", "temperature", "top_p", "max_tokens"})
USUAL = PLAIN | {"stream_options", "stop", "seed", "presence_penalty", "frequency_penalty", "tools", "tool_choice"}
VLLM = (
    USUAL
    | {"n", "logit_bias", "logprobs", "top_logprobs", "response_format", "reasoning_effort"}
    | {"top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "include_stop_str_in_output"}
    | {"ignore_eos", "structured_outputs", "continue_final_message", "add_generation_prompt"}
)
PARAMETERS: Mapping[str, frozenset[str]] = {
    "vllm-serve": VLLM,
    "llama-cpp": USUAL
    | {"logit_bias", "logprobs", "top_logprobs", "response_format", "reasoning_effort"}
    | {"top_k", "min_p", "repeat_penalty", "ignore_eos", "grammar"},
    "llama-cpp-python": USUAL - {"stream_options", "tools", "tool_choice"}
    | {"logit_bias", "logprobs", "top_logprobs", "response_format", "grammar"}
    | {"top_k", "min_p", "repeat_penalty", "min_tokens"},
    "ollama": USUAL - {"tool_choice"} | {"response_format", "reasoning_effort", "logprobs", "top_logprobs"},
    "lm-studio": USUAL | {"top_k", "repeat_penalty", "logit_bias", "response_format"},
    "jan": USUAL,
    "gpt4all": PLAIN | {"min_p", "n"},
    "tensorrt-llm": VLLM - {"structured_outputs", "continue_final_message"},
    "mlx": PLAIN | {"stream_options", "stop", "top_k", "min_p", "repetition_penalty", "seed", "logit_bias", "tools"},
    "transformers": PLAIN | {"stop", "seed", "logit_bias", "tools"},
}
"""What each honours; some ignore the rest in silence, which here is an error for the test to see."""


@dataclass(slots=True)
class RuntimeSimulator(OpenAISimulator):
    """One runtime of `kind` with the models in `models`.

    `healthy` false: its health is bad and it loads a model. `lists` false: it cannot list its models. `version` and
    `context_window` are told where that kind of runtime tells them. `others` and `waiting` are requests in its load
    besides those in flight. `asks` keeps the looks at its health. `slots`: the calls it takes at once; one more is told
    that there is no such model, and counts into `collisions`. None: any number.
    """

    kind: str = "openai"
    healthy: bool = True
    lists: bool = True
    version: str = "1.2.3-simulated"
    context_window: int = 4096
    others: int = 0
    waiting: int = 0
    slots: int | None = None
    collisions: int = 0
    asks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models = self.models or ("simulated",)
        self.parameters = PARAMETERS.get(self.kind, self.parameters)
        if self.kind == "transformers":
            self.tells_usage, self.says_done = True, False
        self.takes_prefill = self.kind in ("llama-cpp", "vllm-serve", "openai")

    def application(self) -> web.Application:
        # The base is named: a class with slots is made anew, and `super()` would still mean the old one.
        application = OpenAISimulator.application(self)
        for path, answer in (
            ("/health", self._health),
            ("/docs", self._health),
            ("/version", self._version),
            ("/props", self._props),
            ("/slots", self._slots),
            ("/metrics", self._metrics),
            ("/api/version", self._version),
            ("/api/ps", self._running_models),
            ("/api/v0/models", self._loaded_models),
        ):
            application.router.add_get(path, answer)
        application.router.add_post("/tokenize", self._tokenize)
        application.router.add_post("/v1/chat/completions/input_tokens", self._input_tokens)
        application.router.add_post("/api/chat", self._native)
        return application

    async def served(self, request: web.Request, body: Any) -> web.StreamResponse:
        if not self.healthy:
            return self._loading()
        if self.slots is not None and self.running > self.slots:
            self.collisions += 1
            return self._error(Status(404, "model_not_found", message="model not found"))
        if self.kind == "gpt4all" and body.get("stream"):
            return self._error(Status(400, message="Streaming is not supported."))
        if self.kind == "tensorrt-llm" and body.get("tools") and "tool_choice" not in body:
            body = {name: value for name, value in body.items() if name != "tools"}  # its default is none
        if request.path == "/api/chat":
            return await self._lines(request, body)
        return await OpenAISimulator.served(self, request, body)

    def _error(self, status: Status) -> web.Response:
        if self.kind in ("mlx", "lm-studio") and status.code != "model_not_found":
            return web.json_response({"error": status.message}, status=status.status)
        if self.kind == "transformers":
            return web.json_response({"detail": status.message}, status=status.status)
        return OpenAISimulator._error(self, status)

    def _loading(self) -> web.Response:
        told = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
        return web.json_response({"error": told}, status=503)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if not self.lists:
            return web.Response(status=500)
        if self.kind != "vllm-serve":
            return await OpenAISimulator._list(self, request)
        cards = [{"id": name, "object": "model", "max_model_len": self.context_window} for name in self.models or ()]
        return web.json_response({"object": "list", "data": cards})

    async def _health(self, request: web.Request) -> web.Response:
        self.asks.append(request.path)
        return web.json_response({"status": "ok"}) if self.healthy else self._loading()

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self.version}) if self.healthy else self._loading()

    async def _props(self, request: web.Request) -> web.Response:
        settings = {"n_ctx": self.context_window}
        return web.json_response({"default_generation_settings": settings, "build_info": self.version})

    async def _slots(self, request: web.Request) -> web.Response:
        busy = self.running + self.others
        return web.json_response([{"id": at, "is_processing": at < busy} for at in range(max(4, busy))])

    async def _metrics(self, request: web.Request) -> web.Response:
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f'vllm:num_requests_running{{engine="0",model_name="simulated"}} {self.running + self.others}.0',
            f'vllm:num_requests_waiting{{engine="0",model_name="simulated"}} {self.waiting}.0',
            'vllm:kv_cache_usage_perc{engine="0",model_name="simulated"} 0.25',
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def _running_models(self, request: web.Request) -> web.Response:
        loaded = [{"name": name, "context_length": self.context_window} for name in self.models or () if self.seen]
        return web.json_response({"models": loaded})

    async def _loaded_models(self, request: web.Request) -> web.Response:
        cards = [
            {"id": name, "state": "loaded", "max_context_length": 131_072, "loaded_context_length": self.context_window}
            for name in self.models or ()
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _tokenize(self, request: web.Request) -> web.Response:
        tokens = wire.prompt_tokens(await request.json())
        return web.json_response({"count": tokens, "max_model_len": self.context_window, "tokens": [0] * tokens})

    async def _input_tokens(self, request: web.Request) -> web.Response:
        tokens = wire.prompt_tokens(await request.json())
        return web.json_response({"object": "response.input_tokens", "input_tokens": tokens})

    async def _native(self, request: web.Request) -> web.StreamResponse:
        return await self.record(request)

    async def _lines(self, request: web.Request, body: Any) -> web.StreamResponse:
        """An answer of Ollama's own: a JSON object a line."""
        fault = self.faults.next()
        match fault:
            case Status():
                return web.json_response({"error": fault.message}, status=fault.status, headers=fault.headers)
            case Silence():
                await asyncio.Event().wait()
            case SlowFirst():
                await asyncio.sleep(fault.seconds)
        if body["model"] not in (self.models or ()):
            return web.json_response({"error": f"model '{body['model']}' not found"}, status=404)
        asked = wire.prompt_tokens(body)
        if asked > body["options"].get("num_ctx", self.context_window):
            if body.get("truncate", True):
                body = {**body, "messages": body["messages"][-1:]}  # what was said before is gone, and nobody is told
            else:
                said = f"the prompt has {asked} tokens, more than the context length"
                return web.json_response({"error": said}, status=400)
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        for at, told in enumerate(self._told(body, asked)):
            if isinstance(fault, BREAKING) and at == fault.after:
                await response.write(b'{"model": "' if isinstance(fault, Malformed) else b'{"error": "broken"}\n')
                return response
            await asyncio.sleep(self.interval_s)
            await response.write(json.dumps({"model": body["model"], **told}).encode() + b"\n")
        return response

    def _told(self, body: Mapping[str, Any], asked: int) -> list[dict[str, Any]]:
        if called := self.calls(body) if self.calls else []:
            calls = [{"function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in called]
            said: list[dict[str, Any]] = [{"message": {"role": "assistant", "content": "", "tool_calls": calls}}]
        else:
            text = self._text({**body, "response_format": _form(body.get("format"))})
            said = [{"message": {"role": "assistant", "content": token}} for token in wire.tokens_of(text)]
            if body.get("logprobs"):
                for one in said:
                    one["logprobs"] = [wire.logprob(one["message"]["content"], body)]
        limit = body["options"].get("num_predict", len(said))
        reason = "length" if len(said) > limit else "stop"
        said = [{**one, "done": False} for one in said[:limit]]
        end = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason}
        return [*said, {**end, "prompt_eval_count": asked, "eval_count": len(said)}]

    def __repr__(self) -> str:
        return f"<RuntimeSimulator {self.kind} {self.running} running, {len(self.seen)} seen>"


def _form(told: object) -> dict[str, Any]:
    """Ollama's `format` as OpenAI's `response_format`."""
    if isinstance(told, Mapping):
        return {"type": "json_schema", "json_schema": {"schema": told}}
    return {"type": "json_object"} if told == "json" else {}


@asynccontextmanager
async def serving_runtime(simulator: RuntimeSimulator, *, port: int = 0) -> AsyncIterator[str]:
    """Serve `simulator` for the block, on a free port unless told; yield its address, `http://...`."""
    async with serving_openai(simulator, port=port) as url:
        yield url.removesuffix("/v1")
