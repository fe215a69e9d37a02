"""An attempt: one call to one target, whole or as a stream, with its share of the deadline and its account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from spillway import embedding, v1
from spillway.errors import UNSUPPORTED_RPC, Cancelled, SpillwayError, TargetDown, TargetTimeout
from spillway.generation import tokens_in
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.rpc.lane import Lane
from spillway.rpc.remote import Remote
from spillway.rpc.watchdog import Watchdog
from spillway.session.client import Session
from spillway.session.link import SessionRefused, SessionUnsupported
from spillway.telemetry import names
from spillway.v1 import inference_pb2_grpc, router_pb2_grpc

from .chain import ITS_OWN
from .journal import Attempt, Journal
from .target import Target

log = get_logger(__name__)

Response = TypeVar("Response", bound=Message)


class TargetClient:
    """Calls the targets at one address.

    Raises SpillwayError alone; every attempt is settled in its journal, whatever happens.
    """

    def __init__(self, remote: Remote, *, sessions: bool = True) -> None:
        self._remote = remote
        self._session = Session(remote) if sessions else None
        stub = inference_pb2_grpc.InferenceServiceStub(remote.channel)
        # A unary call is a stream of one message on the wire. Called as one, it shows the answer's headers, which a
        # target sends with its first token; grpc.aio's own unary call holds them back until the answer is whole.
        self._generate = remote.channel.unary_stream(
            "/spillway.v1.InferenceService/Generate",
            request_serializer=v1.GenerateRequest.SerializeToString,
            response_deserializer=v1.GenerateResponse.FromString,
        )
        self._embed = remote.channel.unary_stream(
            "/spillway.v1.InferenceService/Embed",
            request_serializer=v1.EmbedRequest.SerializeToString,
            response_deserializer=v1.EmbedResponse.FromString,
        )
        self._stream = stub.StreamGenerate
        self._count = stub.CountTokens
        self._explain = router_pb2_grpc.RouterServiceStub(remote.channel).ExplainRoute

    async def generate(
        self, attempt: Attempt, request: v1.GenerateRequest, call: Call, journal: Journal, silence_s: float
    ) -> v1.GenerateResponse:
        """Return the target's whole answer; the caller settles the attempt, having judged the answer.

        Raises TargetTimeout after `silence_s` without a first token.
        """
        if self._session is not None and self._session.takes(request):
            try:
                return await self._told_whole(self._session, attempt, request, call, journal, silence_s)
            except (SessionUnsupported, SessionRefused) as error:
                self._go_alone(attempt, error)
        answer = self._generate, v1.GenerateResponse, _require_answer
        return await self._whole(*answer, attempt, request, call, journal, silence_s)

    async def embed(
        self, attempt: Attempt, request: v1.EmbedRequest, call: Call, journal: Journal, silence_s: float
    ) -> v1.EmbedResponse:
        """Return the target's vectors, one for every input.

        Raises TargetTimeout after `silence_s` without a sign of life.
        """
        vectors = self._embed, v1.EmbedResponse, partial(embedding.require_whole, request.spec)
        response = await self._whole(*vectors, attempt, request, call, journal, silence_s)
        journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED, model=response.model, usage=response.usage)
        return response

    async def _told_whole(
        self,
        session: Session,
        attempt: Attempt,
        request: v1.GenerateRequest,
        call: Call,
        journal: Journal,
        silence_s: float,
    ) -> v1.GenerateResponse:
        """Return the answer that comes in `session`, or settle the attempt as failed.

        Raises SessionUnsupported or SessionRefused where the session did not carry it.
        """
        call = call.heard_within(silence_s)
        try:
            async with asyncio.timeout(_bound_s(silence_s, call)) as silence:

                def alive() -> None:
                    if not silence.expired():
                        silence.reschedule(None)
                        journal.first_token(attempt)

                response = await session.generate(
                    request, call, span_name=names.ATTEMPT, attributes=_told(attempt), alive=alive
                )
            _require_answer(response)
            journal.first_token(attempt)  # of a target that said nothing before
        except (SessionUnsupported, SessionRefused):
            raise
        except BaseException as error:
            raise self._fail(error, journal, attempt, silence_s) from None
        return response

    def _go_alone(self, attempt: Attempt, error: Exception) -> None:
        """Prepare for a call of its own what a session did not carry, as `error` says."""
        if isinstance(error, SessionUnsupported) and self._session is not None:
            log.info("target.without_sessions", target=attempt.target.name)
            self._session = None

    async def _whole(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Any, Response],
        kind: type[Response],
        check: Callable[[Response], None],
        attempt: Attempt,
        request: Any,
        call: Call,
        journal: Journal,
        silence_s: float,
    ) -> Response:
        """Return the one response of `method`, which `check` lets pass; else the attempt is settled as failed."""
        call = call.heard_within(silence_s)
        try:
            async with (
                asyncio.timeout(_bound_s(silence_s, call)) as silence,
                self._remote.stream(method, request, call, span_name=names.ATTEMPT, attributes=_told(attempt)) as rpc,
            ):
                if await rpc.initial_metadata():  # of a refusal they are empty
                    silence.reschedule(None)
                    journal.first_token(attempt)
                response = await rpc.read()
                code = await rpc.code()
            if not isinstance(response, kind) or code is not grpc.StatusCode.OK:
                raise TargetDown("the target's answer did not end well")
            check(response)
            journal.first_token(attempt)  # of a target whose headers said nothing
        except BaseException as error:
            raise self._fail(error, journal, attempt, silence_s) from None
        return response

    async def stream(
        self,
        attempt: Attempt,
        request: v1.StreamGenerateRequest,
        call: Call,
        journal: Journal,
        silence_s: float,
        idle_s: float,
        *,
        judged: bool = False,
        lane: Lane | None = None,
        alone: bool = False,
    ) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield the target's events but for deltas that go by `lane`; returns only after Finished and Usage.

        Where the answer is `judged`, the caller settles an attempt that did not fail. Raises TargetTimeout after
        `silence_s` without a first token, or `idle_s` without another. `alone`: in a call of its own.
        """
        model, usage, begun, finished, tokens, kind = "", None, False, False, 0, None
        call = call.heard_within(silence_s)
        lane = lane or Lane()
        before = lane.passed
        try:
            async with self._opened(request, call, attempt, lane, alone=alone) as rpc:
                ruled = _bound_s(silence_s, call) is None  # by the deadline, until the first token
                dog = Watchdog(idle_s if ruled else silence_s, rpc.cancel, count=lambda: lane.passed)
                try:
                    if not ruled:
                        dog.watch()
                    async for response in rpc:
                        event = response.event
                        kind = event.WhichOneof("event")
                        if kind == "delta":
                            if not begun:
                                begun = True
                                journal.first_token(attempt)
                                if not ruled:
                                    dog.limit(idle_s)
                            tokens += tokens_in(event)
                        elif kind == "started":
                            model = event.started.model
                        elif kind == "finished":
                            finished = True
                        elif kind == "usage":
                            usage = event.usage
                        dog.rest()
                        yield event
                        if begun or not ruled:
                            dog.watch()
                except asyncio.CancelledError:
                    if dog.barked:
                        raise TargetTimeout(f"no token for {dog.limit_s:.3g} s") from None
                    raise
                except SessionRefused:
                    if kind is None:
                        raise
                    raise TargetDown("the session ended amid the stream") from None
                finally:
                    dog.stop()
                if not finished or usage is None:
                    raise TargetDown("the stream ended without Finished and Usage")
        except (SessionUnsupported, SessionRefused) as error:
            self._go_alone(attempt, error)
            plain = self.stream(
                attempt, request, call, journal, silence_s, idle_s, judged=judged, lane=lane, alone=True
            )
            async with aclosing(plain):
                async for event in plain:
                    yield event
            return
        except BaseException as error:
            if judged and isinstance(error, GeneratorExit):
                raise
            tokens += lane.passed - before
            if usage is None:
                usage = v1.Usage(completion_tokens=tokens) if tokens else None
            raise self._fail(error, journal, attempt, silence_s, model, usage) from None
        if not judged:
            journal.settle(attempt, v1.ATTEMPT_OUTCOME_ANSWERED, model=model, usage=usage)

    def _opened(
        self, request: v1.StreamGenerateRequest, call: Call, attempt: Attempt, lane: Lane, *, alone: bool
    ) -> AbstractAsyncContextManager[Any]:
        """Ask for a stream: in the session with the target, or in a call of its own where that takes none."""
        if not alone and self._session is not None and self._session.takes(request):
            return self._session.stream(request, call, span_name=names.ATTEMPT, attributes=_told(attempt), lane=lane)
        return self._remote.stream(self._stream, request, call, span_name=names.ATTEMPT, attributes=_told(attempt))

    async def count_tokens(self, target: Target, spec: v1.GenerationSpec, call: Call) -> v1.CountTokensResponse:
        """Return the prompt's tokens as the target counts them."""
        request = v1.CountTokensRequest(spec=spec)
        request.spec.model = target.model
        return await self._remote.unary(self._count, request, call, span_name=names.COUNT)

    async def explain(self, target: Target, request: v1.ExplainRouteRequest, call: Call) -> v1.Plan:
        """Return what `target`, a router, would do."""
        request.spec.model = target.model
        told: v1.ExplainRouteResponse = await self._remote.unary(
            self._explain, request, call, span_name=names.EXPLAIN_ONWARD
        )
        return told.plan

    async def close(self, grace_s: float | None = None) -> None:
        """Close the channel, once its calls have ended or `grace_s` seconds have passed; None: at once."""
        if self._session is not None:
            await self._session.close(grace_s)
        await self._remote.close(grace_s)

    def _fail(
        self,
        error: BaseException,
        journal: Journal,
        attempt: Attempt,
        silence_s: float,
        model: str = "",
        usage: v1.Usage | None = None,
    ) -> BaseException:
        """Settle `attempt` as failed and return what is to be raised."""
        if isinstance(error, TimeoutError):
            error = TargetTimeout(f"no first token within {silence_s:.3g} s")
        elif isinstance(error, Cancelled):
            error = TargetDown("the target ended the call")
        if isinstance(error, SpillwayError):
            error.elsewhere |= attempt.target.router and error.reason in ITS_OWN
            error.elsewhere |= UNSUPPORTED_RPC in error.metadata  # it is declared as what it is not
            journal.settle(attempt, v1.ATTEMPT_OUTCOME_FAILED, error=error, model=model, usage=usage)
        else:
            journal.settle(attempt, v1.ATTEMPT_OUTCOME_CANCELLED, model=model, usage=usage)
        return error

    def __repr__(self) -> str:
        return f"<TargetClient {self._remote.address}>"


def _bound_s(silence_s: float, call: Call) -> float | None:
    """Seconds without a first token; None where the deadline comes first, which the session or gRPC sees to."""
    return silence_s if silence_s < call.deadline.left() else None


def _require_answer(response: v1.GenerateResponse) -> None:
    if not response.HasField("usage") or not response.choices:
        raise TargetDown("the target's answer has no usage or no choice")


def _told(attempt: Attempt) -> dict[str, str | int]:
    """What the span of an attempt tells."""
    return {names.TARGET: attempt.target.name, names.ATTEMPT_NUMBER: attempt.number}
