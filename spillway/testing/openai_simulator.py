"""A simulated OpenAI: a real HTTP server of chat completions, responses and embeddings, which says what it is.

python -m spillway.testing.openai_simulator --port 7079
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from spillway.testing import openai_wire as wire
from spillway.testing import responses_simulator as responses
from spillway.testing.faults import Garbage
from spillway.testing.http_simulator import (
    MAX_BODY_BYTES,
    HttpSimulator,
    broken_off,
    drop,
    main,
    serving,
    simulated_words,
)
from spillway.testing.openai_faults import (
    BREAKING,
    Cut,
    Filtered,
    HttpFault,
    MissingDone,
    MissingFinish,
    Refusal,
    Status,
)
from spillway.testing.openai_instance import instance
from spillway.testing.openai_limits import Limits
from spillway.testing.openai_wire import Called, Reply


def simulated_answer(body: Mapping[str, Any]) -> str:
    """The plain answer: that it is simulated, and what was asked."""
    return simulated_words(wire.prompt_text(body))


@dataclass(slots=True)
class OpenAISimulator(HttpSimulator):
    """What is answered, how fast, and what goes wrong.

    `answer` gets the request's body, as chat completions have it, and returns the text; it is not asked where a JSON
    Schema or a tool decides. `calls` returns the tools that the model calls; by default only those that the request
    demands. `key`: absent, any key is good, even none. `models`: absent, any model is served. `takes_prefill`: a
    conversation may end with words of the assistant's, and the answer goes on after them. `parameters`: what a request
    may hold, anything else is refused. `tells_usage`: of a stream without being asked, in its last chunk. `says_done`:
    when it is over. `packs`: vectors come as base64 where that is asked for. `thoughts`: the summary of its reasoning,
    by the Responses API, where `reasoning_tokens` say that the model reasons. `limits` are told and not held. Times are
    seconds.
    """

    answer: Callable[[Mapping[str, Any]], str] = simulated_answer
    calls: Callable[[Mapping[str, Any]], list[Called]] | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    takes_prefill: bool = True
    parameters: frozenset[str] = wire.PARAMETERS
    tells_usage: bool = False
    says_done: bool = True
    packs: bool = True
    thoughts: str = ""
    limits: Limits = field(default_factory=Limits)

    def application(self) -> web.Application:
        """The routes of the provider."""
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_post("/v1/chat/completions", self.record)
        application.router.add_post("/v1/responses", self.record)
        application.router.add_post("/v1/embeddings", self.record)
        application.router.add_get("/v1/models", self._list)
        return application

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refused_key(request):
            return self._error(refused)
        names = self.models or ("simulated",)
        return web.json_response(
            {
                "object": "list",
                "data": [
                    {"id": name, "object": "model", "created": wire.CREATED, "owned_by": "simulated"} for name in names
                ],
            }
        )

    async def served(self, request: web.Request, body: Any) -> web.StreamResponse:
        fault = self.faults.next()
        self.limits.requests.take(1, now())
        if refused := self._refused_key(request) or self._wrong(request.path, body) or self._unknown(body):
            return self._error(refused)
        if (failed := await self.failed(request, fault, self._error)) is not None:
            return failed
        if request.path.endswith("/embeddings"):
            if isinstance(fault, Cut):
                drop(request)
            vectors = wire.embedding(body, model=_named(body), packs=self.packs)
            if isinstance(fault, MissingFinish):
                del vectors["data"][fault.after :]
            return web.json_response(vectors, headers=self._limit_headers())
        responds = request.path.endswith("/responses")
        chat = responses.as_chat(body) if responds else body
        replies = self._replies(chat, fault)
        usage = wire.usage_of(chat, replies, cached=self.cached_tokens, reasoning=self.reasoning_tokens)
        self.limits.tokens.take(usage["total_tokens"], now())
        if responds:
            thoughts = self.thoughts if self.reasoning_tokens else None
            answer = responses.Answer(body, replies[0], thoughts, usage, len(self.seen), _named(body))
            headers = self._limit_headers()
            return await responses.answered(request, answer, fault, headers=headers, interval_s=self.interval_s)
        if body.get("stream"):
            return await self._stream(request, body, replies, usage, fault)
        told = wire.completion(body, replies, id=self._id(), model=_named(body), usage=usage)
        if isinstance(fault, Cut):
            drop(request)
        return web.json_response(self.told(told), headers=self._limit_headers())

    def chunks(self, body: Mapping[str, Any], replies: list[Reply]) -> Iterator[dict[str, Any]]:
        """The choice of every chunk of a stream, those with the roles first."""
        return wire.chunks(body, replies)

    def told(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer, a chunk of one or an error within a stream, as this provider tells it."""
        return answer

    async def _stream(
        self, request: web.Request, body: Any, replies: list[Reply], usage: object, fault: HttpFault | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"content-type": "text/event-stream; charset=utf-8", **self._limit_headers()}
        )
        await response.prepare(request)
        id, model = self._id(), _named(body)
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        breaks_at = fault.after if isinstance(fault, BREAKING) else None
        roles = len(replies)
        for at, choice in enumerate(self.chunks(body, replies)):
            if breaks_at is not None and at - roles == breaks_at:
                return await self._broken(request, response, fault, choice, (id, model))
            if at >= roles and self.interval_s and not choice["finish_reason"]:
                await asyncio.sleep(self.interval_s)
            last = usage if self.tells_usage and choice["finish_reason"] else None
            told = wire.chunk([choice], id=id, model=model, usage=last, with_usage=with_usage or last is not None)
            await response.write(wire.event(self.told(told)))
        if with_usage:
            told = wire.chunk([], id=id, model=model, usage=usage, with_usage=True)
            await response.write(wire.event(self.told(told)))
        if self.says_done and not isinstance(fault, MissingDone):
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _broken(
        self,
        request: web.Request,
        response: web.StreamResponse,
        fault: HttpFault | None,
        choice: dict[str, Any],
        identity: tuple[str, str],
    ) -> web.StreamResponse:
        id, model = identity
        match fault:
            case MissingFinish():
                await response.write(b"data: [DONE]\n\n")
            case Filtered():
                choice = {**choice, "delta": {}, "finish_reason": "content_filter"}
                told = wire.chunk([choice], id=id, model=model, usage=None, with_usage=False)
                await response.write(wire.event(self.told(told)))
                await response.write(b"data: [DONE]\n\n")
            case _:
                garbled = b'data: {"choices": [{"index": 0, "delta"\n\n'
                await broken_off(
                    request, response, fault, garbled=garbled, event=lambda told: wire.event(self.told(told))
                )
        return response

    def _replies(self, body: Mapping[str, Any], fault: HttpFault | None) -> list[Reply]:
        if isinstance(fault, Refusal):
            return [Reply(tokens=wire.tokens_of(fault.text), refusal=True)]
        calls = self.calls(body) if self.calls else _demanded(body)
        if calls:
            return [Reply(calls=calls, finish="tool_calls")]
        text = fault.text if isinstance(fault, Garbage) else self._text(body)
        if (last := body["messages"][-1])["role"] == "assistant":
            text = text.removeprefix(wire.content_text(last.get("content")))
        text, stopped = _stopped(text, body.get("stop"))
        replies = []
        for index in range(int(body.get("n") or 1)):
            tokens = wire.tokens_of(text if index == 0 or stopped else f"{text} ({index + 1})")
            limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(tokens)
            cut = len(tokens) > limit
            replies.append(Reply(index, tokens[:limit], finish="length" if cut else "stop"))
        return replies

    def _text(self, body: Mapping[str, Any]) -> str:
        form = body.get("response_format") or {}
        match form.get("type"):
            case "json_schema":
                return json.dumps(instance(form["json_schema"].get("schema", {})))
            case "json_object":
                return json.dumps({"simulated": self.answer(body)})
            case _:
                return self.answer(body)

    def _refused_key(self, request: web.Request) -> Status | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if self.key is None or (scheme.lower() == "bearer" and key == self.key):
            return None
        if not key:
            return Status(401, None, message="You didn't provide an API key.")
        masked = f"{key[:3]}***{key[-4:]}"
        said = f"Incorrect API key provided: {masked}. You can find your API key at https://platform.openai.com."
        return Status(401, "invalid_api_key", message=said)

    def _unknown(self, body: Mapping[str, Any]) -> Status | None:
        if self.models is None or body["model"] in self.models:
            return None
        said = f"The model `{body['model']}` does not exist or you do not have access to it."
        return Status(404, "model_not_found", message=said)

    def _wrong(self, path: str, body: Any) -> Status | None:
        if path.endswith("/embeddings"):
            return wire.wrong_embedding(body)
        if path.endswith("/responses"):
            return responses.wrong(body, thinks=self.reasoning_tokens > 0)
        return wire.wrong(body, self.parameters) or self._prefilled(body)

    def _prefilled(self, body: Mapping[str, Any]) -> Status | None:
        if self.takes_prefill or body["messages"][-1]["role"] != "assistant":
            return None
        return Status(400, message="The conversation must end with a user message.", param="messages")

    def _error(self, status: Status) -> web.Response:
        return web.json_response(
            wire.error_body(status), status=status.status, headers={**self._limit_headers(), **status.headers}
        )

    def _limit_headers(self) -> dict[str, str]:
        return {
            "x-request-id": f"req_simulated_{len(self.seen)}",
            "openai-version": "2020-10-01",
            "openai-processing-ms": str(round(self.first_s * 1000)),
            **self.limits.headers(now()),
        }

    def _id(self) -> str:
        return f"chatcmpl-simulated{len(self.seen)}"

    def __repr__(self) -> str:
        return f"<OpenAISimulator {self.running} running, {len(self.seen)} seen>"


def now() -> float:
    return asyncio.get_running_loop().time()


def _named(body: Mapping[str, Any]) -> str:
    return f"{body['model']}-simulated"


def _demanded(body: Mapping[str, Any]) -> list[Called]:
    """The tool a request demands, with the least arguments its schema allows."""
    choice, tools = body.get("tool_choice"), [tool["function"] for tool in body.get("tools") or ()]
    if isinstance(choice, Mapping):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    elif choice != "required":
        return []
    return [Called(tool["name"], json.dumps(instance(tool.get("parameters") or {}) or {})) for tool in tools[:1]]


def _stopped(text: str, stop: object) -> tuple[str, bool]:
    stops = [stop] if isinstance(stop, str) else list(stop) if isinstance(stop, list) else []
    places = [place for place in (text.find(one) for one in stops) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def serving_openai(
    simulator: OpenAISimulator, *, host: str = "127.0.0.1", port: int = 0
) -> AbstractAsyncContextManager[str]:
    """Serve `simulator` for the block, on a free port unless told; yield its base URL, `http://.../v1`."""
    return serving(simulator, host=host, port=port)


if __name__ == "__main__":
    main("spillway.testing.openai_simulator", OpenAISimulator, port=7079)
