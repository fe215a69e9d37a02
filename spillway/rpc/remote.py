"""The other side of a call: a channel to one address, and calls over it that carry deadline, cancel and trace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import grpc
from grpc.aio import AioRpcError
from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue

from spillway.errors import Cancelled, DeadlineExceeded, SpillwayError, TargetDown
from spillway.rpc import metadata
from spillway.rpc.call import ANONYMOUS, Call
from spillway.rpc.options import channel_options
from spillway.rpc.spread import Spread
from spillway.rpc.status import from_rpc_error
from spillway.telemetry.tracing import Tracing, fail, inject

Response = TypeVar("Response")
MIN_TIMEOUT_S = 0.001
MAX_TIMEOUT_S = 30 * 86_400.0
"""gRPC ends a call at once that has centuries."""


class Remote:
    """A peer of the mesh. Raises `SpillwayError` alone; a call left early is cancelled on the other side."""

    def __init__(
        self,
        address: str,
        *,
        tracing: Tracing,
        key: str | None = None,
        max_receive_bytes: int = 16 * 2**20,
        name: str = "",
        spread: bool = False,
    ) -> None:
        """`spread`: where several workers listen it has a connection to each, and calls are spread over them."""
        self.address = address

        def connect(name: str) -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(
                address, options=channel_options(max_receive_bytes=max_receive_bytes, name=name)
            )

        self._spread = Spread(lambda number: connect(f"{name or address} {number}")) if spread else None
        self.channel = self._spread or connect(name)
        self._tracing = tracing
        self._key = key

    @property
    def breadth(self) -> int:
        """Connections that calls are spread over."""
        return 1 if self._spread is None else self._spread.breadth

    def stays(self, rpc: grpc.aio.StreamStreamCall[Any, Any]) -> bool:
        """Whether the connection of `rpc` is one that calls are spread over: what goes on for long had better move."""
        return self._spread is None or self._spread.stays(rpc)

    async def unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, Response],
        request: Any,
        call: Call,
        *,
        span_name: str,
        told: Callable[[Response], Mapping[str, AttributeValue]] | None = None,
    ) -> Response:
        """Call `method` under `call`. `told` is what its span tells of the response."""
        span = self._tracing.start(span_name, call.span, kind=SpanKind.CLIENT)
        rpc = None
        try:
            rpc = method(request, timeout=self._left(call), metadata=self._headers(call, span))
            response = await rpc
            if told is not None:
                span.set_attributes(told(response))
            return response
        except BaseException as error:
            understood = self._understood(error, call, span, rpc)
            if understood is error:
                raise
            raise understood from None
        finally:
            if rpc is not None:
                rpc.cancel()
            span.end()

    def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Any, Response],
        request: Any,
        call: Call,
        *,
        span_name: str,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> AbstractAsyncContextManager[grpc.aio.UnaryStreamCall[Any, Response]]:
        """Open `method` under `call`; leaving the block ends it on the other side too."""
        return _Opened(self, partial(method, request), call, span_name, attributes)

    def duplex(
        self, method: grpc.aio.StreamStreamMultiCallable[Any, Response], call: Call, *, span_name: str
    ) -> AbstractAsyncContextManager[grpc.aio.StreamStreamCall[Any, Response]]:
        """Open `method`, which both sides write to, under `call`; leaving the block ends it on the other side too."""
        return _Opened(self, method, call, span_name)

    async def close(self, grace_s: float | None = None) -> None:
        """Close the channel, once its calls have ended or `grace_s` seconds have passed; None: at once."""
        await self.channel.close(grace_s)

    def span(
        self, name: str, call: Call, attributes: Mapping[str, AttributeValue] | None = None
    ) -> AbstractContextManager[Span]:
        """A client's span under `call` for the block, which is told how the block ended."""
        return _Told(self._tracing.start(name, call.span, kind=SpanKind.CLIENT, attributes=attributes), call)

    @property
    def connected(self) -> bool:
        """Whether there is a connection that stands."""
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    def key_headers(self) -> tuple[tuple[str, str], ...]:
        """What says who calls."""
        return ((metadata.AUTHORIZATION, f"Bearer {self._key}"),) if self._key else ()

    def _left(self, call: Call) -> float:
        if call.deadline.passed:
            raise DeadlineExceeded(f"the deadline had passed before {self.address} was called")
        return min(max(MIN_TIMEOUT_S, call.deadline.left()), MAX_TIMEOUT_S)

    def _headers(self, call: Call, span: Span) -> tuple[tuple[str, str], ...]:
        headers = {metadata.REQUEST_ID: metadata.ascii_value(call.request_id), **inject(span)}
        if call.caller.tenant != ANONYMOUS:
            headers[metadata.TENANT] = metadata.ascii_value(call.caller.tenant)
        if call.hop:
            headers[metadata.HOP] = str(call.hop)
        if call.attempts_left is not None:
            headers[metadata.ATTEMPTS_LEFT] = str(call.attempts_left)
        if call.first_token is not None:
            wait_ms = min(round(call.first_token.left() * 1000), metadata.MAX_FIRST_TOKEN_MS)
            headers[metadata.FIRST_TOKEN_MS] = str(wait_ms)
        return (*headers.items(), *self.key_headers())

    def _understood(
        self, error: BaseException, call: Call, span: Span, rpc: grpc.aio.RpcContext | None
    ) -> BaseException:
        """Return what `error` means to the caller, having told the span."""
        if isinstance(error, AioRpcError):
            error = meant(from_rpc_error(error), call, self.address)
        elif isinstance(error, asyncio.CancelledError) and rpc is not None and rpc.cancelled() and not cancelling():
            error = closed(self.address)
        _tell(span, error, call)
        return error

    def __repr__(self) -> str:
        return f"<Remote {self.address}>"


class _Opened(AbstractAsyncContextManager[Any]):
    """An rpc that ends with its block. Classes, this and the next: generators would cost a call three times as much."""

    __slots__ = ("_attributes", "_call", "_method", "_remote", "_rpc", "_span", "_span_name")

    _span: Span

    def __init__(
        self,
        remote: Remote,
        method: Callable[..., Any],
        call: Call,
        span_name: str,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> None:
        self._remote, self._method, self._call = remote, method, call
        self._span_name, self._attributes = span_name, attributes
        self._rpc: Any = None

    async def __aenter__(self) -> Any:
        remote, call = self._remote, self._call
        self._span = span = remote._tracing.start(
            self._span_name, call.span, kind=SpanKind.CLIENT, attributes=self._attributes
        )
        try:
            self._rpc = self._method(timeout=remote._left(call), metadata=remote._headers(call, span))
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self._rpc

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None:
                understood = self._remote._understood(error, self._call, self._span, self._rpc)
                if understood is not error:
                    raise understood from None
        finally:
            if self._rpc is not None:
                self._rpc.cancel()
            self._span.end()


class _Told(AbstractContextManager[Span]):
    __slots__ = ("_call", "_span")

    def __init__(self, span: Span, call: Call) -> None:
        self._span, self._call = span, call

    def __enter__(self) -> Span:
        return self._span

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            _tell(self._span, error, self._call)
        self._span.end()


def meant(error: SpillwayError, call: Call, address: str) -> SpillwayError:
    """Return what `error`, which came from `address`, means to who made `call`."""
    if isinstance(error, DeadlineExceeded | Cancelled) and call.deadline.passed:
        return DeadlineExceeded(f"no answer from {address} before the deadline")
    if isinstance(error, Cancelled):  # by the other side: the caller is still here
        return TargetDown(f"{address} cancelled the call")
    return error


def _tell(span: Span, error: BaseException, call: Call) -> None:
    if isinstance(error, SpillwayError):
        fail(span, error.reason)
    elif isinstance(error, asyncio.CancelledError | GeneratorExit):
        fail(span, "EXPIRED" if call.deadline.passed else "CANCELLED")
    else:
        fail(span, type(error).__name__)


def closed(address: str) -> TargetDown:
    """The error of a call that this side's end of its channel cut off."""
    return TargetDown(f"the channel to {address} was closed")


def cancelling() -> bool:
    """Whether this task is being cancelled; else a CancelledError is that of a call."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
