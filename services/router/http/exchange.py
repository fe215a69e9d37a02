"""One HTTP request on its way through the edge: what came with it becomes a `Call`, what goes wrong becomes a status.

It is what `spillway.rpc.boundary` is for an rpc. HTTP/1.1 has no deadline and no cancel of its own: the one is a header
or the server's default and is enforced here, the other is a caller that hangs up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from opentelemetry.trace import SpanKind
from starlette.types import Receive, Scope, Send

from spillway.deadline import Clock, Deadline
from spillway.errors import Cancelled, DeadlineExceeded, Internal, SpillwayError, StreamInterrupted, TargetDraining
from spillway.logs import get_logger
from spillway.rpc import metadata
from spillway.rpc.admission import admit
from spillway.rpc.call import Call, enter, new_id
from spillway.rpc.inbound import CLOCKS_DIFFER_S
from spillway.rpc.keys import KeyRing
from spillway.rpc.watchdog import Watchdog
from spillway.settings import ServerSettings
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, extract, fail

from .answer import encode, event
from .connection import EXTENSION
from .failure import BodyTooLarge, MethodNotAllowed, body_of, headers_of, row_of, wrong
from .hints import DEADLINE_MS, deadline_s
from .outlet import Outlet, Turn

log = get_logger(__name__)

JSON_TYPE = ("content-type", "application/json")
STREAM_HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache, no-transform"),
    ("x-accel-buffering", "no"),  # proxies hold nothing back
)


class Exchange:
    """One request and its response. Made by `Endpoint`."""

    def __init__(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = self._streams = self._stalled = self._left = False
        self.outlet = Outlet(send, scope["extensions"][EXTENSION]["connection"](), endpoint.turn)
        """Of a response of server-sent events, once that has begun."""
        self.headers = _headers(scope["headers"])
        given = self.headers.get(metadata.REQUEST_ID) or self.headers.get("x-request-id", "")
        request_id = given[:128] if given.isascii() and given.isprintable() else ""
        span = endpoint.tracing.start(endpoint.name, extract(self.headers), kind=SpanKind.SERVER)
        deadline = Deadline.after(endpoint.settings.default_deadline_s, endpoint.clock)
        self.call = Call(request_id or new_id(), deadline, span)
        enter(self.call)

    @property
    def path(self) -> Mapping[str, str]:
        """The variable parts of the path."""
        found: Mapping[str, str] = self._scope["path_params"]
        return found

    def open(self) -> None:
        """Let the request in as somebody's, or raise."""
        if (seconds := deadline_s(self.headers)) is not None:
            self.call = self.call.until(Deadline.after(seconds, self._endpoint.clock))
        span = self.call.span
        if span.is_recording():
            span.set_attributes(
                {
                    names.HTTP_METHOD: self._scope["method"],
                    names.HTTP_ROUTE: self._endpoint.route,
                    names.REQUEST_ID: self.call.request_id,
                    names.DEADLINE_LEFT_MS: round(self.call.deadline.left() * 1000),
                }
            )
        self.call = admit(self.call, self.headers, self._endpoint.keys, self._endpoint.key_scope)
        if span.is_recording():
            span.set_attribute(names.TENANT, self.call.caller.tenant)
        enter(self.call)
        if self._scope["method"] != self._endpoint.method:
            raise MethodNotAllowed(f"{self._endpoint.route} takes {self._endpoint.method}")

    async def body(self) -> object:
        """Return the request's JSON. Raises BodyTooLarge, RequestInvalid, or Cancelled if the caller leaves."""
        limit = self._endpoint.max_body_bytes
        told = self.headers.get("content-length", "")
        if told.isdecimal() and int(told[:20]) > limit:
            raise BodyTooLarge(f"the body has {told[:20]} bytes; at most {limit} are accepted")
        size, pieces, more = 0, [], True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Cancelled("the caller left")
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > limit:
                raise BodyTooLarge(f"the body has more than {limit} bytes, which is all that are accepted")
            more = message.get("more_body", False)
        try:
            return json.loads(b"".join(pieces))
        except UnicodeDecodeError:
            raise wrong("body", "is not UTF-8 text") from None
        except ValueError as error:
            raise wrong("body", f"is not JSON: {error}") from None
        except RecursionError:
            raise wrong("body", "is nested too deep") from None

    async def answer(self, told: object, headers: Iterable[tuple[str, str]] = (), status: int = 200) -> None:
        """Send a whole response."""
        body = encode(told).encode()
        await self._start(status, [JSON_TYPE, ("content-length", str(len(body))), *headers])
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, headers: Iterable[tuple[str, str]]) -> None:
        """Begin a response of server-sent events."""
        self._streams = True
        await self._start(200, [*STREAM_HEADERS, *headers])

    def stall_watchdog(self) -> Watchdog:
        """A watchdog that cancels this task when the reader of its stream takes nothing for too long."""
        task = asyncio.current_task()
        assert task is not None
        return Watchdog(self._endpoint.settings.write_stall_s, task.cancel)

    def stalled(self, limit_s: float) -> StreamInterrupted:
        """The error of a stream whose reader takes nothing; it will not be written to any more."""
        self._stalled = True
        return StreamInterrupted(f"the reader took nothing for {limit_s:g} s")

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, and end it as soon as the caller hangs up. Raises what it does, or Cancelled."""
        task = asyncio.current_task()
        assert task is not None
        gone = asyncio.create_task(self._gone(task))
        try:
            await work
        except asyncio.CancelledError:
            if not self._left:
                raise
            task.uncancel()
            raise Cancelled("the caller left") from None
        finally:
            gone.cancel()

    async def _gone(self, task: asyncio.Task[Any]) -> None:
        """Cancel `task` when the caller hangs up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        task.cancel()

    async def fail(self, error: BaseException) -> None:
        """Tell span, log and caller what `error` means."""
        told = self._told(error)
        fail(self.call.span, told.reason)
        if self._stalled or (self._started and not self._streams):
            self.outlet.abort()  # the reader of what was begun takes nothing, or has left
            return
        try:
            async with asyncio.timeout(self._endpoint.settings.write_stall_s):
                if not self._started:
                    await self.answer(body_of(told), headers_of(told), row_of(told).status)
                else:  # the status is out: the error is an event, and no [DONE] follows
                    await self.outlet.write(event(encode(body_of(told))))
                    await self.outlet.end()
        except TimeoutError:
            self.outlet.abort()

    def _told(self, error: BaseException) -> SpillwayError:
        if isinstance(error, SpillwayError):
            return error
        if isinstance(error, TimeoutError) and self.call.deadline.left() < CLOCKS_DIFFER_S:
            return DeadlineExceeded(f"the deadline has passed; {DEADLINE_MS} sets another")
        if isinstance(error, asyncio.CancelledError):
            return TargetDraining("the server stops")
        log.error("http.crashed", route=self._endpoint.route, exc_info=error)
        return Internal(f"internal error; request id {self.call.request_id}")

    async def _start(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        self._started = True
        if self.call.span.is_recording():
            self.call.span.set_attribute(names.HTTP_STATUS, status)
        raw = [(name.encode(), value.encode()) for name, value in (*headers, ("x-request-id", self.call.request_id))]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    def __repr__(self) -> str:
        state = "streaming" if self._streams else "answered" if self._started else "open"
        return f"<Exchange {self._endpoint.name} {self.call.request_id} {state}>"


Act = Callable[[Exchange], Coroutine[Any, Any, None]]


class Endpoint:
    """One method of one route, as an ASGI application. No key is asked for while `keys` is None."""

    def __init__(
        self,
        method: str,
        route: str,
        act: Act,
        *,
        settings: ServerSettings,
        max_body_bytes: int,
        key_scope: str,
        keys: KeyRing | None,
        tracing: Tracing,
        clock: Clock,
        turn: Turn,
    ) -> None:
        self.method, self.route, self.name = method, route, f"{method} {route}"
        self.settings = settings
        self.max_body_bytes = max_body_bytes
        self.key_scope = key_scope
        self.keys = keys
        self.tracing = tracing
        self.clock = clock
        self.turn = turn
        self._act = act

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(self, scope, receive, send)
        try:
            exchange.open()
            async with asyncio.timeout(exchange.call.deadline.left()):
                await self._act(exchange)
        except (Exception, asyncio.CancelledError) as error:
            await exchange.fail(error)
        finally:
            exchange.call.span.end()

    def __repr__(self) -> str:
        return f"<Endpoint {self.name}>"


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header -> value; one that comes twice has both, so that neither is overlooked."""
    found: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
