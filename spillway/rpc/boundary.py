"""The boundary of a server: what every rpc passes on its way in and out.

On the way in: the caller's key, the deadline, the request id and the trace become one `Call`. On the way out: errors
become a status and the span ends, whatever happened. One interceptor does it in one pass, because each costs per call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
from grpc.aio import AbortError, ServicerContext
from opentelemetry.trace import Span

from spillway.deadline import Clock
from spillway.errors import StreamInterrupted
from spillway.rpc import inbound, metadata
from spillway.rpc.admission import admit
from spillway.rpc.call import Call, enter
from spillway.rpc.inbound import Inbound
from spillway.rpc.keys import GENERATE, KeyRing
from spillway.rpc.methods import ENDLESS, SESSION
from spillway.rpc.status import MAX_MESSAGE_BYTES, cut, trailers
from spillway.rpc.watchdog import Watchdog
from spillway.settings import ServerSettings
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, fail

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "ServicerContext[Any, Any]"

OPEN_SERVICES = ("grpc.health.v1.", "grpc.reflection.", "grpc.channelz.")
"""Served without a key, a span or a deadline of ours."""


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
        self._inbound = Inbound(settings, tracing=tracing, clock=clock)
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
                response_serializer=_serialized if method == SESSION else handler.response_serializer,
            )
        raise TypeError(f"{method}: a stream of requests with one answer has no boundary yet")

    def _unary(self, behaviour: Callable[..., Any], method: str) -> Callable[[Any, Context], Awaitable[Any]]:
        async def serve(request: Any, context: Context) -> Any:
            rpc = _Rpc(self, request, context, method)
            try:
                rpc.admit()
                if rpc.limit_s is None:  # gRPC sees to a deadline of the caller's own
                    answer = await behaviour(request, context)
                else:
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
        request_id = getattr(getattr(request, "spec", None), "request_id", "") or headers.get(metadata.REQUEST_ID, "")
        call = self._inbound.begin(method, headers, request_id, left)
        return call, headers, None if method in ENDLESS else self._inbound.limit_s(left)

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
        told = inbound.told(error, self.call, self._method, by_default=self.limit_s is not None)
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


def _serialized(frame: bytes) -> bytes:
    """A session makes its frames itself."""
    return frame
