"""The boundary of a server: what every rpc passes on its way in and out.

On the way in: the caller's key, the deadline, the request id and the trace become one `Call`. On the way out: errors
become a status and the span ends, whatever happened. One interceptor does it in one pass, because each costs per call.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
from grpc.aio import AbortError, ServicerContext
from opentelemetry.trace import Span, SpanKind

from spillway.deadline import Clock, Deadline
from spillway.errors import Cancelled, DeadlineExceeded, Internal, SpillwayError, StreamInterrupted
from spillway.logs import get_logger
from spillway.rpc import metadata
from spillway.rpc.admission import admit
from spillway.rpc.call import Call, enter
from spillway.rpc.keys import GENERATE, KeyRing
from spillway.rpc.status import MAX_MESSAGE_BYTES, cut, trailers
from spillway.rpc.watchdog import Watchdog
from spillway.settings import ServerSettings
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, extract, fail

log = get_logger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "ServicerContext[Any, Any]"

OPEN_SERVICES = ("grpc.health.v1.", "grpc.reflection.", "grpc.channelz.")
"""Served without a key, a span or a deadline of ours."""
CLOCKS_DIFFER_S = 0.005
"""A cancel this close to the deadline is the deadline: the caller's clock may strike a little before ours."""


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server, once per method.

    `scopes` names the scope a service asks for, by its full name, where it is not `generate`. No key is asked for
    while `keys` is None.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        tracing: Tracing,
        clock: Clock,
        scopes: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._tracing = tracing
        self._clock = clock
        self.keys: KeyRing | None = None
        self._scopes = scopes or {}
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = str(handler_call_details.method)
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None or method.lstrip("/").startswith(OPEN_SERVICES):
                return handler
            wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _wrap(self, handler: Handler, method: str) -> Handler:
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        raise TypeError(f"{method}: a stream of requests with one answer has no boundary yet")

    def _unary(self, behaviour: Callable[..., Any], method: str) -> Callable[[Any, Context], Awaitable[Any]]:
        async def serve(request: Any, context: Context) -> Any:
            rpc = _Rpc(self, request, context, method)
            try:
                rpc.admit()
                async with asyncio.timeout(rpc.limit_s):
                    answer = await behaviour(request, context)
            except BaseException as error:
                await rpc.fail(error)
                raise
            rpc.span.end()
            return answer

        return serve

    def _stream(self, behaviour: Callable[..., Any], method: str) -> Callable[[Any, Context], Awaitable[None]]:
        async def serve(request: Any, context: Context) -> None:
            rpc = _Rpc(self, request, context, method)
            answers: AsyncIterable[Any] | None = None
            stall = rpc.stall_watchdog()
            write, watch, rest = context.write, stall.watch, stall.rest
            try:
                try:
                    rpc.admit()
                    answers = behaviour(request, context)
                    async with asyncio.timeout(rpc.limit_s):
                        async for answer in answers:
                            watch()
                            await write(answer)
                            rest()
                finally:  # before the status, which waits behind what a stalled reader has not taken
                    stall.stop()
                    if (close := getattr(answers, "aclose", None)) is not None:
                        await close()
            except BaseException as error:
                stalled = StreamInterrupted(f"the reader took nothing for {stall.limit_s:g} s")
                await rpc.fail(stalled if stall.barked else error)
                raise
            rpc.span.end()

        return serve

    def start(self, request: Any, context: Context, method: str) -> tuple[Call, Mapping[str, str], float | None]:
        """Read what came with an rpc: its call, still anonymous, its headers, and the deadline it did not bring."""
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        left = context.time_remaining()
        limit_s = self._settings.default_deadline_s if left is None else None
        deadline = Deadline.after(self._settings.default_deadline_s if left is None else left, self._clock)
        request_id = getattr(getattr(request, "spec", None), "request_id", "") or headers.get(metadata.REQUEST_ID, "")
        request_id = request_id[:128] or os.urandom(16).hex()
        path = method.lstrip("/")
        span = self._tracing.start(path, extract(headers), kind=SpanKind.SERVER)
        if span.is_recording():
            service, _, name = path.partition("/")
            span.set_attributes(
                {
                    names.RPC_SYSTEM: "grpc",
                    names.RPC_SERVICE: service,
                    names.RPC_METHOD: name,
                    names.REQUEST_ID: request_id,
                    names.DEADLINE_LEFT_MS: round(deadline.left() * 1000),
                }
            )
        return Call(request_id, deadline, span), headers, limit_s

    def admit(self, call: Call, headers: Mapping[str, str], method: str) -> Call:
        """Return `call` as its caller's; raises what `admission.admit` does."""
        return admit(call, headers, self.keys, self._scopes.get(method.lstrip("/").partition("/")[0], GENERATE))


class _Rpc:
    """One rpc on its way through the boundary."""

    __slots__ = ("_boundary", "_context", "_headers", "_method", "call", "limit_s", "span")

    def __init__(self, boundary: Boundary, request: Any, context: Context, method: str) -> None:
        self._boundary = boundary
        self._context = context
        self._method = method
        self.call, self._headers, self.limit_s = boundary.start(request, context, method)
        self.span: Span = self.call.span
        enter(self.call)

    def admit(self) -> None:
        """Let the rpc in as somebody's, or raise."""
        self.call = self._boundary.admit(self.call, self._headers, self._method)
        if self.span.is_recording():
            self.span.set_attribute(names.TENANT, self.call.caller.tenant)
        enter(self.call)

    def stall_watchdog(self) -> Watchdog:
        task = asyncio.current_task()
        assert task is not None
        return Watchdog(self._boundary._settings.write_stall_s, task.cancel)

    async def fail(self, error: BaseException) -> None:
        """Tell span, log and caller what `error` means, and end the span. Raises gRPC's own abort, or nothing."""
        if isinstance(error, AbortError):
            fail(self.span, "ABORTED_BY_HANDLER")
            self.span.end()
            return
        told = self._told(error)
        fail(self.span, told.reason)
        self.span.set_attribute(names.RPC_STATUS, told.code.value[0])
        self.span.end()  # now: the status may wait behind what the reader has not taken
        if isinstance(error, GeneratorExit):
            return
        try:
            await self._context.abort(told.code, cut(told.message, MAX_MESSAGE_BYTES), trailers(told))
        except BaseException:
            # A cancel passes as it came. Its caller is gone as a rule; one that is not gets a status all the same.
            if not isinstance(error, asyncio.CancelledError):
                raise

    def _told(self, error: BaseException) -> SpillwayError:
        if isinstance(error, SpillwayError):
            return error
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            late = self.call.deadline.left() < CLOCKS_DIFFER_S
            return DeadlineExceeded() if late else Cancelled("the call was cancelled")
        if isinstance(error, TimeoutError) and self.limit_s is not None and self.call.deadline.passed:
            return DeadlineExceeded("the server's default deadline has passed; send a deadline with the call")
        log.error("rpc.crashed", method=self._method, exc_info=error)
        return Internal(f"internal error; request id {self.call.request_id}")
