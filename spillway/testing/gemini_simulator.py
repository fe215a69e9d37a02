"""A simulated Gemini: a real HTTP server of generateContent, whole and streamed, which says that it is simulated.

python -m spillway.testing.gemini_simulator --port 7081
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from spillway.testing import gemini_wire as wire
from spillway.testing.faults import Garbage
from spillway.testing.http_simulator import (
    MAX_BODY_BYTES,
    HttpSimulator,
    break_off,
    drop,
    main,
    serving,
    simulated_words,
)
from spillway.testing.openai_faults import (
    BREAKING,
    Cut,
    ErrorInStream,
    Filtered,
    HttpFault,
    Malformed,
    MissingFinish,
    Status,
)
from spillway.testing.openai_instance import instance
from spillway.testing.openai_wire import Called, Reply, tokens_of

BASE = "/v1beta"
IN_WORDS = {
    "context_length_exceeded": "The input token count (9000) exceeds the maximum number of tokens allowed (8192).",
    "insufficient_quota": "Your prepayment credits are depleted.",
}
"""What other providers have codes for, and Google says."""


def simulated_answer(body: Mapping[str, Any]) -> str:
    """The plain answer: that it is simulated, and what was asked."""
    return simulated_words(wire.prompt_text(body))


@dataclass(slots=True)
class GeminiSimulator(HttpSimulator):
    """What is answered, how fast, and what goes wrong.

    `answer` gets the request's body and returns the text; it is not asked where a schema or a tool decides. `calls`
    returns the functions that the model calls; by default only those that the request demands. `signs`: as Gemini 3 it
    signs calls and the end of a text, gives calls ids, and refuses a call that comes back without its signature.
    `takes_prefill`: a conversation may end with a content of the model's. `knows_sse`: else a stream is a JSON list.
    """

    answer: Callable[[Mapping[str, Any]], str] = simulated_answer
    calls: Callable[[Mapping[str, Any]], list[Called]] | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    signs: bool = True
    takes_prefill: bool = True
    knows_sse: bool = True

    def application(self) -> web.Application:
        """The routes of the provider."""
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_post(f"{BASE}/models/{{model:[^:]+}}:{{method}}", self.record)
        application.router.add_get(f"{BASE}/models", self._list)
        return application

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refused_key(request):
            return _error(refused)
        names = self.models or ("simulated",)
        return web.json_response({"models": [{"name": f"models/{name}", "displayName": name} for name in names]})

    async def served(self, request: web.Request, body: Any) -> web.StreamResponse:
        body, fault = wire.camel(body), self.faults.next()
        model, method = request.match_info["model"], request.match_info["method"]
        if refused := self._refused(request, body, model, method):
            return _error(refused)
        if (failed := await self.failed(request, fault, lambda status: self._refusal(status, model))) is not None:
            return failed
        if method == "batchEmbedContents":
            vectors = wire.embeddings(body)
            if isinstance(fault, MissingFinish):
                del vectors["embeddings"][fault.after :]
            return web.json_response(vectors)
        replies = self._replies(body, fault)
        thinking = (body.get("generationConfig") or {}).get("thinkingConfig") or {}
        thought = "Simulated thoughts." if thinking.get("includeThoughts") else ""
        told = list(wire.chunks(body, replies, model=model, thought=thought, signs=self.signs))
        if method == "streamGenerateContent" and self.knows_sse and request.query.get("alt") == "sse":
            return await self._stream(request, told, body, model, fault)
        if isinstance(fault, Cut):
            drop(request)
        if method == "streamGenerateContent":
            return _json([self._chunk([one], body, model, told[: at + 1]) for at, one in enumerate(told)])
        of = [[one for one in told if one["index"] == reply.index] for reply in replies]
        return _json(self._chunk([wire.joined(candidates) for candidates in of], body, model, told))

    async def _stream(
        self, request: web.Request, told: list[dict[str, Any]], body: Any, model: str, fault: HttpFault | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        breaks_at = fault.after if isinstance(fault, BREAKING) else None
        for at, candidate in enumerate(told):
            if at == breaks_at:
                await break_off(request, fault)
                match fault:
                    case Malformed():
                        await response.write(b'data: {"candidates": [{"content"\r\n\r\n')
                    case ErrorInStream():
                        status = fault.code if isinstance(fault.code, int) else 500
                        await response.write(wire.event(wire.error_body(Status(status, message=fault.message))))
                    case Filtered():
                        cut = [{"finishReason": "SAFETY", "index": candidate["index"]}]
                        await response.write(wire.event(self._chunk(cut, body, model, told[:at])))
                return response
            if at and self.interval_s:
                await asyncio.sleep(self.interval_s)
            await response.write(wire.event(self._chunk([candidate], body, model, told[: at + 1])))
        await response.write_eof()
        return response

    def _chunk(self, candidates: list[Any], body: Any, model: str, told: list[dict[str, Any]]) -> dict[str, Any]:
        """One response, with the counts after all that was `told`."""
        asked, said = wire.prompt_tokens(body), sum(_said(one) for one in told)
        usage = {"promptTokenCount": asked, "candidatesTokenCount": said, "thoughtsTokenCount": self.reasoning_tokens}
        usage["totalTokenCount"] = sum(usage.values())
        usage["cachedContentTokenCount"] = min(self.cached_tokens, asked)
        named = {"modelVersion": f"{model}-simulated", "responseId": f"simulated{len(self.seen)}"}
        counts = {name: count for name, count in usage.items() if count}  # as JSON of protobuf, which leaves 0 out
        return {"candidates": candidates, "usageMetadata": counts, **named}

    def _replies(self, body: Mapping[str, Any], fault: HttpFault | None) -> list[Reply]:
        if calls := self.calls(body) if self.calls else _demanded(body):
            return [Reply(calls=calls, finish="tool_calls")]
        config = body.get("generationConfig") or {}
        text = fault.text if isinstance(fault, Garbage) else self._text(body, config)
        if body["contents"][-1].get("role") == "model":
            text = text.removeprefix("".join(wire.parts_of(body["contents"][-1], "text")))
        for stop in config.get("stopSequences") or ():
            text = text.partition(stop)[0]
        replies = []
        for index in range(config.get("candidateCount", 1)):
            tokens = tokens_of(f"{text} ({index + 1})" if index else text)
            kept = tokens[: config.get("maxOutputTokens")]
            replies.append(Reply(index, kept, finish="length" if len(kept) < len(tokens) else "stop"))
        return replies

    def _text(self, body: Mapping[str, Any], config: Mapping[str, Any]) -> str:
        match config.get("responseMimeType"):
            case "text/x.enum":
                return str(config["responseSchema"]["enum"][0])
            case "application/json" if "responseJsonSchema" in config:
                return json.dumps(instance(config["responseJsonSchema"]))
            case "application/json":
                return json.dumps({"simulated": self.answer(body)})
            case _:
                return self.answer(body)

    def _refused(self, request: web.Request, body: Any, model: str, method: str) -> Status | None:
        if refused := self._refused_key(request):
            return refused
        if self.models is not None and model not in self.models:
            return Status(404, message=f"models/{model} is not found for API version v1beta.")
        match method:
            case "generateContent" | "streamGenerateContent":
                return wire.wrong(body, model, signed=self.signs, takes_prefill=self.takes_prefill)
            case "batchEmbedContents":
                return wire.wrong_embedding(body)
            case _:
                return Status(404, message="Method not found.")

    def _refused_key(self, request: web.Request) -> Status | None:
        key = request.headers.get("x-goog-api-key", "")
        if self.key is None or key == self.key:
            return None
        if not key:
            return Status(403, message="Method doesn't allow unregistered callers.")
        return Status(400, "API_KEY_INVALID", message="API key not valid. Please pass a valid API key.")

    def _refusal(self, status: Status, model: str) -> web.Response:
        """Google's answer to a fault; a prompt that it will not have is a good answer without candidates."""
        if status.code == "content_policy_violation":
            blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": model}
            return _json({**blocked, "usageMetadata": {"promptTokenCount": 1, "totalTokenCount": 1}})
        return _error(status)

    def __repr__(self) -> str:
        return f"<GeminiSimulator {self.running} running, {len(self.seen)} seen>"


def _said(candidate: Mapping[str, Any]) -> int:
    """Tokens of a chunk, as the simulator counts: words that are no thoughts, and those of arguments."""
    parts = [part for part in candidate["content"]["parts"] if not part.get("thought")]
    return sum(len(str(part.get("text") or part.get("functionCall") or "").split()) for part in parts)


def _demanded(body: Mapping[str, Any]) -> list[Called]:
    """The function a request demands, with the least arguments its schema allows."""
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    if calling.get("mode") != "ANY":
        return []
    allowed = calling.get("allowedFunctionNames")
    found = next(one for one in wire.declared(body) if allowed is None or one["name"] in allowed)
    return [Called(found["name"], json.dumps(instance(found.get("parametersJsonSchema") or {"type": "object"})))]


def _error(status: Status) -> web.Response:
    said = IN_WORDS.get(status.code or "", status.message)
    told = Status(status.status, status.code, message=said, param=status.param, headers=status.headers)
    return _json(wire.error_body(told), status=status.status)


def _json(told: object, status: int = 200) -> web.Response:
    """A body as Google writes it: over many lines."""
    body = json.dumps(told, indent=2, ensure_ascii=False).encode()
    return web.Response(status=status, body=body, headers={"content-type": "application/json; charset=UTF-8"})


def serving_gemini(
    simulator: GeminiSimulator, *, host: str = "127.0.0.1", port: int = 0
) -> AbstractAsyncContextManager[str]:
    """Serve `simulator` for the block, on a free port unless told; yield its base URL, `http://.../v1beta`."""
    return serving(simulator, base=BASE, host=host, port=port)


if __name__ == "__main__":
    main("spillway.testing.gemini_simulator", GeminiSimulator, port=7081, base=BASE)
