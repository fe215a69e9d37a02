"""The OpenAI-compatible edge: bodies into messages of the contract, the router's answers into bodies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.routing import Router as Routes
from starlette.types import ASGIApp, Receive, Scope, Send

from services.router.reading import tell_models
from services.router.router import Router
from spillway import v1
from spillway.deadline import Clock
from spillway.errors import ModelUnknown, StreamInterrupted
from spillway.rpc import metadata
from spillway.rpc.keys import GENERATE, KeyRing
from spillway.rpc.lane import Lane
from spillway.settings import ServerSettings
from spillway.telemetry.tracing import Tracing

from . import chat_answer, completion_answer, embedding_answer
from .answer import Chunks
from .chat_request import read_chat
from .completion_request import read_completion
from .embedding_request import EmbeddingAsked, read_embedding
from .exchange import Endpoint, Exchange
from .failure import PathUnknown, body_of, wrong
from .glance import plain_text
from .hints import SESSION, priority, read_policy, repair
from .outlet import Outlet, Turn
from .parameters import AUTO, Asked
from .settings import HttpSettings

Found = TypeVar("Found")
Read = Callable[[object], Asked]
Whole = Callable[[v1.GenerateResponse, int], dict[str, Any]]
Begin = Callable[..., Chunks]


class Edge:
    """What the routes do. `now`: seconds since the epoch."""

    def __init__(self, router: Router, now: Callable[[], float]) -> None:
        self._router = router
        self._now = now
        self._began = int(now())

    async def chat(self, exchange: Exchange) -> None:
        """POST /v1/chat/completions."""
        await self._generate(exchange, read_chat, chat_answer.whole, chat_answer.ChatChunks)

    async def completion(self, exchange: Exchange) -> None:
        """POST /v1/completions."""
        await self._generate(exchange, read_completion, completion_answer.whole, completion_answer.CompletionChunks)

    async def embedding(self, exchange: Exchange) -> None:
        """POST /v1/embeddings."""
        asked, policy = _asked(await exchange.body(), read_embedding), read_policy(exchange.headers)
        asked.spec.priority = priority(exchange.headers)
        exchange.call.caller.defaults.fill(asked.spec, policy)
        await exchange.while_connected(self._embed(exchange, asked, policy))

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models."""
        await exchange.answer({"object": "list", "data": list(self._models().values())})

    async def model(self, exchange: Exchange) -> None:
        """GET /v1/models/{id}."""
        asked = exchange.path["id"]
        found = self._models().get(asked)
        if found is None:
            raise ModelUnknown(f"{asked[:100]!r} is not served here", resource=asked[:100])
        await exchange.answer(found)

    async def _generate(self, exchange: Exchange, read: Read, whole: Whole, begin: Begin) -> None:
        asked, policy = _asked(await exchange.body(), read), read_policy(exchange.headers)
        repair(exchange.headers, asked.spec)
        asked.spec.session_id = exchange.headers.get(SESSION, "")
        asked.spec.priority = priority(exchange.headers)
        exchange.call.caller.defaults.fill(asked.spec, policy)
        if asked.stream:
            chunks = begin(exchange.call.request_id, int(self._now()), include_usage=asked.include_usage)
            await exchange.while_connected(self._stream(exchange, asked.spec, policy, chunks))
        else:
            await exchange.while_connected(self._whole(exchange, asked.spec, policy, whole))

    async def _embed(self, exchange: Exchange, asked: EmbeddingAsked, policy: v1.RoutingPolicy) -> None:
        response = await self._router.embed(v1.EmbedRequest(spec=asked.spec, policy=policy), exchange.call)
        await exchange.answer(embedding_answer.whole(response, packed=asked.packed), _route(response))

    async def _whole(self, exchange: Exchange, spec: v1.GenerationSpec, policy: v1.RoutingPolicy, whole: Whole) -> None:
        response = await self._router.generate(v1.GenerateRequest(spec=spec, policy=policy), exchange.call)
        await exchange.answer(whole(response, int(self._now())), _route(response.started))

    async def _stream(
        self, exchange: Exchange, spec: v1.GenerationSpec, policy: v1.RoutingPolicy, chunks: Chunks
    ) -> None:
        """Tell events as they come. Nothing is sent before the first, so that a refusal has a status of its own."""
        outlet = exchange.outlet
        request = v1.StreamGenerateRequest(spec=spec, policy=policy)
        events = await self._router.stream(request, exchange.call, _Lane(outlet, chunks))
        stall = exchange.stall_watchdog()
        begun = False
        try:
            async with aclosing(events):
                async for event in events:
                    text = ""
                    match event.WhichOneof("event"):
                        case "delta":
                            text = chunks.delta(event.delta)
                        case "started":
                            chunks.begin(event.started)
                            if not begun:
                                begun = True
                                await exchange.stream(_route(event.started))
                        case "finished":
                            text = chunks.finish(event.finished)
                        case "usage":
                            text = chunks.usage(event.usage) + "data: [DONE]\n\n"
                        case "route_changed" if event.route_changed.restarted:
                            raise StreamInterrupted("the answer starts over, and what was sent cannot be taken back")
                    if text and outlet.open:
                        outlet.put(text)
                    elif text:
                        stall.watch()
                        await outlet.write(text)
                        stall.rest()
            stall.watch()
            await outlet.end()
        except BaseException:
            if stall.barked:
                raise exchange.stalled(stall.limit_s) from None
            raise
        finally:
            stall.stop()

    def _models(self) -> dict[str, dict[str, Any]]:
        """Name -> model, for each that a request may ask for."""
        found = {AUTO: {"id": AUTO, "object": "model", "created": self._began, "owned_by": "policy"}}
        for told in tell_models(self._router.book):
            owner = _OWNERS[told.kind]
            for name in filter(None, (told.name, told.target)):
                model: dict[str, Any] = {"id": name, "object": "model", "created": self._began, "owned_by": owner}
                if told.HasField("context_window"):
                    model["context_window"] = told.context_window
                found.setdefault(name, model)
        return found


_OWNERS = {v1.TARGET_KIND_UNSPECIFIED: "policy", v1.TARGET_KIND_LOCAL: "local", v1.TARGET_KIND_CLOUD: "cloud"}
"""An alias is of no kind: the policy says what it stands for."""


def _asked(body: object, read: Callable[[object], Found]) -> Found:
    try:
        return read(body)
    except UnicodeEncodeError:  # JSON can spell half a character; no text can hold it
        raise wrong("body", "has a lone surrogate: it is no text") from None


class _Lane(Lane):
    """Of deltas that nobody here has to read but to tell them as `chunks`: they wake no task."""

    __slots__ = ("_outlet",)

    def __init__(self, outlet: Outlet, chunks: Chunks) -> None:
        super().__init__(partial(_tell, outlet, chunks))
        self._outlet = outlet

    def take(self, event: bytes, tokens: int) -> bool:
        self.credit = int(self._outlet.open)
        try:
            return super().take(event, tokens)
        except DecodeError:
            return False  # who reads it says so


def _tell(outlet: Outlet, chunks: Chunks, event: bytes, tokens: int) -> None:
    text = plain_text(event)
    outlet.put(chunks.delta(v1.GenerationEvent.FromString(event).delta) if text is None else chunks.text(text))


def _route(started: v1.Started | v1.EmbedResponse) -> list[tuple[str, str]]:
    return [
        (metadata.TARGET, metadata.ascii_value(started.target)),
        (metadata.MODEL, metadata.ascii_value(started.model)),
        (metadata.ROUTE_REASON, metadata.ascii_value(started.route_reason)),
    ]


def _health(ready: Callable[[], bool]) -> Callable[[Request], Awaitable[Response]]:
    async def health(request: Request) -> Response:
        found = ready()
        return JSONResponse({"status": "ready" if found else "not ready"}, 200 if found else 503)

    return health


def application(
    router: Router,
    *,
    settings: HttpSettings,
    server: ServerSettings,
    keys: KeyRing | None,
    ready: Callable[[], bool],
    tracing: Tracing,
    clock: Clock,
    now: Callable[[], float],
) -> ASGIApp:
    """Return the edge of `router` as an ASGI application. `ready`: whether balancers should send requests here."""
    edge, turn = Edge(router, now), Turn()

    def route(method: str, path: str, act: Any) -> Route:
        endpoint = Endpoint(
            method,
            path,
            act,
            settings=server,
            max_body_bytes=settings.max_body_bytes,
            key_scope=GENERATE,
            keys=keys,
            tracing=tracing,
            clock=clock,
            turn=turn,
        )
        return Route(path, endpoint)

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        error = PathUnknown(f"{scope['method']} {scope['path'][:100]} is not served here")
        await JSONResponse(body_of(error), error.row.status)(scope, receive, send)

    return Routes(
        [
            route("POST", "/v1/chat/completions", edge.chat),
            route("POST", "/v1/completions", edge.completion),
            route("POST", "/v1/embeddings", edge.embedding),
            route("GET", "/v1/models", edge.models),
            route("GET", "/v1/models/{id:path}", edge.model),
            Route("/health", _health(ready)),
        ],
        redirect_slashes=False,
        default=nothing,
    )
