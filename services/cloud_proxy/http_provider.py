"""A provider over HTTP, whatever its wire format: one pool of connections, one deadline, errors by a table."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager, closing
from typing import Any, TypeVar

import aiohttp
import jiter
from aiohttp import ClientTimeout
from aiohttp.abc import AbstractResolver

from services.cloud_proxy import tls
from services.cloud_proxy.http_proxy import HttpProxy
from services.cloud_proxy.key import Key
from services.cloud_proxy.keyring import Held, Keyring
from services.cloud_proxy.parameters import require_none
from services.cloud_proxy.provider import Exchange, Prepared, Wire
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.silence import Silence, SilentTooLong
from spillway import v1
from spillway.errors import (
    DeadlineExceeded,
    ProviderAuthFailed,
    ProviderError,
    ProviderOutOfCredit,
    SpillwayError,
    TargetBusy,
    TargetDown,
    TargetTimeout,
)
from spillway.openai.connection import Spares, read_body
from spillway.openai.embedding import MAX_BODY_BYTES
from spillway.openai.sse import EventParser, EventTooLong
from spillway.rpc.call import Call
from spillway.telemetry.tracing import inject

T = TypeVar("T")

MAX_ERROR_BYTES = 64 * 2**10
ERROR_BODY_S = 2.0
"""Longest wait for what a refusal says beyond its status."""
MAX_WHOLE_BYTES = 16 * 2**20
NEVER_CEIL_S = 1e9
KEEPALIVE_IDLE_S = 30
"""Silence after which TCP asks whether the other side is there: gateways forget connections, and tell nobody."""

NOT_REACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
PROXY_REFUSED = 407
FOREIGN = (aiohttp.ClientError, TimeoutError, OSError, EventTooLong)


class HttpProvider:
    """One provider: its address, keys and connections, and the wire format it speaks.

    `trust`: whom it believes over TLS, None for the usual; `resolver`: who looks names up, None for the system.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        wire: Wire,
        keys: Keyring,
        *,
        proxy: HttpProxy | None = None,
        trust: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._settings = settings
        self._wire = wire
        self._keys = keys
        self._proxy = proxy
        self._tunnelled = settings.base_url.startswith("https:")
        self._spares = Spares()
        self.connections = 0
        """Those that a request or an answer is on its way over."""
        self._free = asyncio.Semaphore(settings.max_connections)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.max_connections,
                ssl=True if trust is None else trust,
                resolver=resolver,
                socket_factory=_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            # The answer comes in small pieces and at once: no compression, and no environment beyond `proxy`
            # (a .netrc would put another key beside ours, and is read from disk for every request).
            headers={"accept-encoding": "identity", "accept": "text/event-stream, application/json"},
            trust_env=False,
        )

    def prepare(self, spec: v1.GenerationSpec, model: str) -> Prepared:
        require_none(spec, self._settings.lacks)
        return self._wire.prepare(spec, model)

    async def stream(self, prepared: Prepared, call: Call, exchange: Exchange) -> AsyncGenerator[list[v1.Delta], None]:
        async with self._asked("POST", prepared, call, exchange) as response:
            answer = self._wire.read(prepared, exchange)
            if response.content_type == "text/event-stream":
                parser, over = EventParser(), False
                with closing(Silence(response, self._settings.idle_s)) as silence:
                    while not (over or answer.done):
                        over, events = await self._meaning(self._next(silence, parser))
                        if deltas := answer.take(events):
                            silence.begun(self._settings.stall_s)
                            yield deltas
            elif deltas := answer.whole(await self._meaning(read_body(response, MAX_WHOLE_BYTES))):
                yield deltas
            answer.check()

    async def embed(self, spec: v1.EmbeddingSpec, model: str, call: Call, exchange: Exchange) -> v1.EmbedResponse:
        prepared = self._wire.prepare_embedding(spec, model)
        async with self._asked("POST", prepared, call, exchange) as response:
            told = await self._meaning(read_body(response, MAX_BODY_BYTES))
        return await asyncio.to_thread(self._wire.read_embedding, told, spec, exchange)

    async def models(self, call: Call) -> list[str]:
        exchange = Exchange()
        async with self._asked("GET", Prepared(self._wire.models_path(), b""), call, exchange) as response:
            told = await self._meaning(read_body(response, MAX_WHOLE_BYTES))
        return self._wire.read_models(told)

    @asynccontextmanager
    async def _asked(
        self, method: str, prepared: Prepared, call: Call, exchange: Exchange
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send `prepared` and yield the response, if it is a good one; the block reads it to its end.

        Left in any other way, it closes the connection: the provider sees it end, and stops.
        """
        await self._turn(call)
        self.connections += 1
        try:
            held, response = await self._accepted(method, prepared, call, exchange)
            try:
                yield response
            except BaseException as error:
                response.close()
                if isinstance(error, SpillwayError):
                    self._keys.failed(held, error, response.status)
                raise
            self._spares.keep(response)
        finally:
            self.connections -= 1
            self._free.release()

    async def _turn(self, call: Call) -> None:
        """Take one of the connections. Raises TargetBusy where none is free while `call` may wait in a line."""
        try:
            async with asyncio.timeout(call.line_s):
                await self._free.acquire()
        except TimeoutError:
            name, most = self._settings.name, self._settings.max_connections
            raise TargetBusy(f"{name}: all {most} connections are in use (max_connections)", resource=name) from None

    async def _accepted(
        self, method: str, prepared: Prepared, call: Call, exchange: Exchange
    ) -> tuple[Held, aiohttp.ClientResponse]:
        """Send `prepared` and return the response, if it is a good one, and the key that it was sent with.

        A key that the provider takes no more makes room for the next one, each once; nothing else is tried again.
        """
        tried: list[Held] = []
        refusal: SpillwayError | None = None
        while True:
            held = self._keys.take(tried, refusal)
            tried.append(held)
            response = await self._meaning(self._send(method, prepared, call, exchange, held.key))
            if response.status == 200:
                return held, response
            try:
                refusal = await self._refusal(response, exchange)
            finally:
                response.close()
            self._keys.failed(held, refusal, response.status)
            if not isinstance(refusal, ProviderAuthFailed | ProviderOutOfCredit):
                raise refusal

    async def _meaning(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; a foreign error becomes the SpillwayError it means."""
        try:
            return await work
        except FOREIGN as error:
            failed = self._meant(error)
        # Whatever else it is, the frames it passed know the request's headers, and its report may show what they know.
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            raise
        raise failed  # out of the handler: the foreign error may know the request's headers, the key among them

    async def _send(
        self, method: str, prepared: Prepared, call: Call, exchange: Exchange, key: Key | None
    ) -> aiohttp.ClientResponse:
        """Send `prepared` under `call`'s deadline, and tell `exchange` what the answer's head says."""
        left = call.deadline.left()
        if left <= 0:
            raise DeadlineExceeded(f"no time is left to call {self._settings.name}")
        before = exchange.sent, exchange.sent_bytes, exchange.status
        exchange.sent, exchange.status = True, None  # with another key it may have been sent, and refused, already
        exchange.sent_bytes += len(prepared.body)
        try:
            response = await self._session.request(
                method,
                f"{self._settings.base_url}/{prepared.path}",
                data=prepared.body or None,
                headers=self._headers(prepared, call, left, key),
                timeout=ClientTimeout(
                    total=left,
                    sock_connect=self._settings.connect_timeout_s,
                    sock_read=self._settings.idle_s,
                    ceil_threshold=NEVER_CEIL_S,
                ),
                proxy=self._proxy.url if self._proxy else None,
                proxy_headers=self._proxy.headers if self._proxy and self._tunnelled else None,
                allow_redirects=False,  # content and key go where the settings say, nowhere else
            )
        except NOT_REACHED:
            exchange.sent, exchange.sent_bytes, exchange.status = before
            raise
        headers = _lowered(response)
        exchange.status, exchange.head_at = response.status, call.deadline.clock()
        exchange.provider_request_id = self._wire.request_id(headers)[:100]
        exchange.allowances = self._wire.allowances(headers, now=time.time())
        return response

    async def _next(self, silence: Silence, parser: EventParser) -> tuple[bool, list[bytes]]:
        """Return whether the stream is over, and the events that came next."""
        data = await silence.read()
        return not data, parser.feed(data) if data else parser.end()

    def _headers(self, prepared: Prepared, call: Call, left: float, key: Key | None) -> dict[str, str]:
        headers = {"content-type": "application/json", **self._wire.headers(key), **prepared.headers}
        if self._proxy and not self._tunnelled:  # it reads the request itself, and takes what is its own off
            headers.update(self._proxy.headers)
        if self._settings.simulated:  # our own trace and deadline are no real provider's business
            headers.update(inject(call.span))
            headers["x-spillway-deadline-ms"] = str(round(left * 1000))
        return headers

    async def _refusal(self, response: aiohttp.ClientResponse, exchange: Exchange) -> SpillwayError:
        status, name = response.status, self._settings.name
        if 300 <= status < 400:
            said = f"{name} answered {status}: redirects are not followed; base_url must be where it leads"
            return ProviderError(said, resource=name, metadata={"provider": name, "http_status": str(status)})
        if status == PROXY_REFUSED and self._proxy:
            return self._proxy_refused(status)
        try:
            async with asyncio.timeout(ERROR_BODY_S):
                body = jiter.from_json(await read_body(response, MAX_ERROR_BYTES))
        except (ValueError, *FOREIGN):
            body = None
        return self._wire.refusal(
            status, body, _lowered(response), now=time.time(), request_id=exchange.provider_request_id
        )

    def _proxy_refused(self, status: int) -> TargetDown:
        name = self._settings.name
        why = "asks for a user and a password" if status == PROXY_REFUSED else "lets nothing through"
        return TargetDown(f"{name}: the HTTP proxy before it {why} ({status})", resource=name)

    def _meant(self, error: BaseException) -> SpillwayError:
        """What a foreign error means: by its type alone, its text stays here."""
        name = self._settings.name
        if isinstance(error, SilentTooLong) and error.within:
            return TargetTimeout(f"{name} stalled for {error.seconds:g} s within its answer", resource=name)
        if isinstance(error, aiohttp.SocketTimeoutError | SilentTooLong):
            return TargetTimeout(f"{name} was silent for {self._settings.idle_s:g} s", resource=name)
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return TargetDown(f"{name} could not be reached in time", resource=name)
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(f"{name} had not answered when the deadline passed")
        if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
            return TargetDown(f"{name}: no trusted connection (TLS): {tls.refused(error)}", resource=name)
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            whose = "its HTTP proxy's" if self._proxy else "its"
            return TargetDown(f"{name}: {whose} address cannot be resolved", resource=name)
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            return TargetDown(f"{name}: the HTTP proxy before it cannot be reached", resource=name)
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return self._proxy_refused(error.status)
        if isinstance(error, EventTooLong | aiohttp.ClientResponseError):
            return ProviderError(f"{name} does not speak its wire format ({type(error).__name__})", resource=name)
        return TargetDown(f"{name}: the connection failed ({type(error).__name__})", resource=name)

    async def close(self) -> None:
        self._spares.close()
        await self._session.close()

    def __repr__(self) -> str:
        name, url = self._settings.name, self._settings.base_url
        return f"<HttpProvider {name} {url} {self._wire!r}, {self.connections} connections>"


def _lowered(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket whose other side is asked for from time to time. aiohttp sets TCP_NODELAY itself."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # not everywhere by this name
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    return made
