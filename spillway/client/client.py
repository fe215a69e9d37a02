"""Calls to a router, or to anything else that serves `InferenceService`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Unpack

from opentelemetry.trace import INVALID_SPAN, Span

from spillway import v1
from spillway.client.answer import Answer
from spillway.client.embeddings import Embeddings
from spillway.client.request import (
    EmbedOptions,
    Inputs,
    Options,
    Prompt,
    build_embedding,
    build_policy,
    build_spec,
    check_names,
    deadline_s,
)
from spillway.client.stream import AnswerStream
from spillway.client.transport import Transport
from spillway.deadline import Deadline
from spillway.embedding import Spec
from spillway.errors import SpillwayError
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, fail
from spillway.v1.inference_pb2_grpc import InferenceServiceStub
from spillway.v1.router_pb2_grpc import RouterServiceStub

_EMBED = "spillway.v1.InferenceService/Embed"
_COUNT = "spillway.v1.InferenceService/CountTokens"
_MODELS = "spillway.v1.InferenceService/ListModels"
_EXPLAIN = "spillway.v1.RouterService/ExplainRoute"


@asynccontextmanager
async def connect(
    address: str, *, key: str | None = None, tracing: Tracing | None = None, max_receive_bytes: int = 16 * 2**20
) -> AsyncIterator[Client]:
    """Open a channel to `address` (host:port) for the block. Nothing is sent before the first call.

    `key` goes with every call. `tracing` records the client's spans; without it the caller's own trace still passes on.
    """
    tracing = tracing or Tracing("client")
    reach = partial(Remote, address, tracing=tracing, key=key, max_receive_bytes=max_receive_bytes, spread=True)
    client = Client(reach, tracing)
    try:
        yield client
    finally:
        await client.close()


class Client:
    """Made by `connect`. Every keyword argument is one of `Options`; every failure is a `SpillwayError`.

    Generations that run at once share a session, which costs both sides a fraction of a call for each; one that runs
    alone has a call of its own.
    """

    def __init__(self, dial: Callable[[], Remote], tracing: Tracing, *, together: bool = False) -> None:
        self._dial = dial
        self._remote = remote = dial()
        self._transport = Transport(remote, together=together)
        self._tracing = tracing
        self._inference = InferenceServiceStub(remote.channel)
        self._router = RouterServiceStub(remote.channel)

    async def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Answer:
        """Return the whole answer to `prompt`."""
        request = v1.GenerateRequest(spec=build_spec(prompt, options), policy=build_policy(options))
        async with self._request(request.spec, options) as call:
            answer = Answer(await self._transport.generate(request, call))
            _describe(call.span, answer)
            return answer

    @asynccontextmanager
    async def stream(self, prompt: Prompt, **options: Unpack[Options]) -> AsyncIterator[AnswerStream]:
        """Open the answer to `prompt` as it comes; leaving the block ends it on the server too."""
        request = v1.StreamGenerateRequest(spec=build_spec(prompt, options), policy=build_policy(options))
        async with (
            self._request(request.spec, options) as call,
            self._transport.stream(request, call) as responses,
        ):
            answer = AnswerStream(responses, request.spec.constraint.json_schema)
            try:
                yield answer
            finally:
                _describe(call.span, answer.so_far)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Client]:
        """Open a client whose generations all share one session, from the first on; leaving the block ends them.

        For who knows that many will come. Where the other side serves no sessions, each has a call of its own.
        """
        client = Client(self._dial, self._tracing, together=True)
        try:
            yield client
        finally:
            await client.close()

    async def embed(self, inputs: Inputs, **options: Unpack[EmbedOptions]) -> Embeddings:
        """Return a vector for every input, all by one model. Every keyword argument is one of `EmbedOptions`."""
        request = v1.EmbedRequest(spec=build_embedding(inputs, options), policy=build_policy(options))
        async with self._request(request.spec, options) as call:
            found = Embeddings(await self._remote.unary(self._inference.Embed, request, call, span_name=_EMBED))
            _describe(call.span, found)
            return found

    async def explain(self, prompt: Prompt, **options: Unpack[Options]) -> v1.Plan:
        """Return what a router would do with `prompt` now, and why. Nothing is generated."""
        request = v1.ExplainRouteRequest(spec=build_spec(prompt, options), policy=build_policy(options))
        async with self._request(request.spec, options) as call:
            response = await self._remote.unary(self._router.ExplainRoute, request, call, span_name=_EXPLAIN)
            return response.plan

    async def count_tokens(self, prompt: Prompt, **options: Unpack[Options]) -> v1.CountTokensResponse:
        """Return the tokens of `prompt`, and whether they were counted or estimated."""
        request = v1.CountTokensRequest(spec=build_spec(prompt, options))
        async with self._request(request.spec, options) as call:
            return await self._remote.unary(self._inference.CountTokens, request, call, span_name=_COUNT)

    async def models(self, **options: Unpack[Options]) -> list[v1.Model]:
        """Return what a request's `model` may name."""
        check_names(options)
        async with self._request(v1.GenerationSpec(), options) as call:
            response = await self._remote.unary(
                self._inference.ListModels, v1.ListModelsRequest(), call, span_name=_MODELS
            )
            return list(response.models)

    async def close(self) -> None:
        """Close the channel; what still runs is cancelled."""
        await self._transport.close()
        await self._remote.close()

    @asynccontextmanager
    async def _request(self, spec: Spec, options: Options | EmbedOptions) -> AsyncIterator[Call]:
        """The call of one request under its root span."""
        deadline = Deadline.after(deadline_s(options))
        spec.request_id = spec.request_id or uuid.uuid4().hex
        span = self._tracing.start(names.CLIENT_REQUEST, options.get("parent", INVALID_SPAN))
        span.set_attribute(names.REQUEST_ID, spec.request_id)
        try:
            yield Call(spec.request_id, deadline, span)
        except SpillwayError as error:
            fail(span, error.reason)
            raise
        except BaseException as error:
            fail(span, type(error).__name__)
            raise
        finally:
            span.end()

    def __repr__(self) -> str:
        return f"<Client {self._remote.address}>"


def _describe(span: Span, answer: Answer | Embeddings) -> None:
    """Tell `span` who answered, never what."""
    if not span.is_recording():
        return
    if answer.target:
        span.set_attributes({names.TARGET: answer.target, names.ANSWERED_BY: answer.model})
    usage = answer.usage
    if usage.HasField("prompt_tokens"):
        span.set_attribute(names.INPUT_TOKENS, usage.prompt_tokens)
    if usage.HasField("completion_tokens"):
        span.set_attribute(names.OUTPUT_TOKENS, usage.completion_tokens)
