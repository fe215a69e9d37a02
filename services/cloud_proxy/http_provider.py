"""A provider over HTTP, whatever its wire format: one pool of connections, one deadline, errors by a table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import jiter
from aiohttp import ClientTimeout

from services.cloud_proxy.key import Key
from services.cloud_proxy.provider import Exchange, Prepared, Wire
from services.cloud_proxy.settings import ProviderSettings
from spillway import v1
from spillway.errors import DeadlineExceeded, ProviderError, SpillwayError, TargetDown, TargetTimeout
from spillway.openai.connection import Spares, read_body
from spillway.openai.embedding import MAX_BODY_BYTES
from spillway.openai.sse import EventParser, EventTooLong
from spillway.rpc.call import Call
from spillway.telemetry.tracing import inject

T = TypeVar("T")

MAX_ERROR_BYTES = 64 * 2**10
MAX_WHOLE_BYTES = 16 * 2**20
NEVER_CEIL_S = 1e9

NOT_REACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorDNSError)
FOREIGN = (aiohttp.ClientError, TimeoutError, OSError, EventTooLong)


class HttpProvider:
    """One provider: its address, key and connections, and the wire format it speaks."""

    def __init__(self, settings: ProviderSettings, wire: Wire, key: Key | None, *, proxy: str | None = None) -> None:
        self._settings = settings
        self._wire = wire
        self._key = key
        self._proxy = proxy
        self._spares = Spares()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.max_connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            # The answer comes in small pieces and at once: no compression, and no environment beyond `proxy`
            # (a .netrc would put another key beside ours, and is read from disk for every request).
            headers={"accept-encoding": "identity", "accept": "text/event-stream, application/json"},
            trust_env=False,
        )

    def prepare(self, spec: v1.GenerationSpec, model: str) -> Prepared:
        return self._wire.prepare(spec, model)

    async def stream(self, prepared: Prepared, call: Call, exchange: Exchange) -> AsyncGenerator[list[v1.Delta], None]:
        async with self._asked("POST", prepared, call, exchange) as response:
            answer = self._wire.read(prepared, exchange)
            if response.content_type == "text/event-stream":
                parser, limit_s = EventParser(), None
                while not answer.done:
                    over, events = await self._meaning(self._next(response, parser, limit_s), exchange)
                    if deltas := answer.take(events):
                        limit_s = self._settings.stall_s
                        yield deltas
                    if over:
                        break
            elif deltas := answer.whole(await self._meaning(read_body(response, MAX_WHOLE_BYTES), exchange)):
                yield deltas
            answer.check()

    async def embed(self, spec: v1.EmbeddingSpec, model: str, call: Call, exchange: Exchange) -> v1.EmbedResponse:
        prepared = self._wire.prepare_embedding(spec, model)
        async with self._asked("POST", prepared, call, exchange) as response:
            told = await self._meaning(read_body(response, MAX_BODY_BYTES), exchange)
        return await asyncio.to_thread(self._wire.read_embedding, told, spec, exchange)

    async def models(self, call: Call) -> list[str]:
        exchange = Exchange()
        async with self._asked("GET", Prepared(self._wire.models_path(), b""), call, exchange) as response:
            told = await self._meaning(read_body(response, MAX_WHOLE_BYTES), exchange)
        return self._wire.read_models(told)

    @asynccontextmanager
    async def _asked(
        self, method: str, prepared: Prepared, call: Call, exchange: Exchange
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send `prepared` and yield the response, if it is a good one; the block reads it to its end.

        Left in any other way, it closes the connection: the provider sees it end, and stops.
        """
        response = await self._meaning(self._send(method, prepared, call, exchange), exchange)
        try:
            if response.status != 200:
                raise await self._refusal(response, exchange)
            yield response
        except BaseException:
            response.close()
            raise
        self._spares.keep(response)

    async def _meaning(self, work: Coroutine[Any, Any, T], exchange: Exchange) -> T:
        """Await `work`; a foreign error becomes the SpillwayError it means."""
        try:
            return await work
        except FOREIGN as error:
            exchange.sent = not isinstance(error, NOT_REACHED)
            failed = self._meant(error)
        raise failed  # out of the handler: the foreign error may know the request's headers, the key among them

    async def _send(self, method: str, prepared: Prepared, call: Call, exchange: Exchange) -> aiohttp.ClientResponse:
        """Send `prepared` under `call`'s deadline, and tell `exchange` what the answer's head says."""
        left = call.deadline.left()
        if left <= 0:
            raise DeadlineExceeded(f"no time is left to call {self._settings.name}")
        exchange.sent = True
        response = await self._session.request(
            method,
            f"{self._settings.base_url}/{prepared.path}",
            data=prepared.body or None,
            headers=self._headers(prepared, call, left),
            timeout=ClientTimeout(
                total=left,
                sock_connect=self._settings.connect_timeout_s,
                sock_read=self._settings.idle_s,
                ceil_threshold=NEVER_CEIL_S,
            ),
            proxy=self._proxy,
            allow_redirects=False,  # content and key go where the settings say, nowhere else
        )
        headers = _lowered(response)
        exchange.status, exchange.head_at = response.status, call.deadline.clock()
        exchange.provider_request_id = self._wire.request_id(headers)[:100]
        exchange.allowances = self._wire.allowances(headers, now=time.time())
        return response

    async def _next(
        self, response: aiohttp.ClientResponse, parser: EventParser, limit_s: float | None
    ) -> tuple[bool, list[bytes]]:
        """Return whether the stream is over, and the events that came next.

        Raises TargetTimeout after `limit_s` of silence; None: the session's own limit holds.
        """
        try:
            async with asyncio.timeout(limit_s) as silence:
                data = await response.content.readany()
        except TimeoutError:
            if silence.expired():
                name = self._settings.name
                raise TargetTimeout(f"{name} stalled for {limit_s:g} s within its answer", resource=name) from None
            raise
        return not data, parser.feed(data) if data else parser.end()

    def _headers(self, prepared: Prepared, call: Call, left: float) -> dict[str, str]:
        headers = {"content-type": "application/json", **self._wire.headers(self._key), **prepared.headers}
        if self._settings.simulated:  # our own trace and deadline are no real provider's business
            headers.update(inject(call.span))
            headers["x-spillway-deadline-ms"] = str(round(left * 1000))
        return headers

    async def _refusal(self, response: aiohttp.ClientResponse, exchange: Exchange) -> SpillwayError:
        try:
            body = jiter.from_json(await read_body(response, MAX_ERROR_BYTES))
        except (ValueError, *FOREIGN):
            body = None
        return self._wire.refusal(
            response.status, body, _lowered(response), now=time.time(), request_id=exchange.provider_request_id
        )

    def _meant(self, error: BaseException) -> SpillwayError:
        """What a foreign error means: by its type alone, its text stays here."""
        name = self._settings.name
        if isinstance(error, aiohttp.SocketTimeoutError):
            return TargetTimeout(f"{name} was silent for {self._settings.idle_s:g} s", resource=name)
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return TargetDown(f"{name} could not be reached in time", resource=name)
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(f"{name} had not answered when the deadline passed")
        if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError):
            return TargetDown(f"{name}: no trusted connection (TLS)", resource=name)
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return TargetDown(f"{name}: its address cannot be resolved", resource=name)
        if isinstance(error, EventTooLong | aiohttp.ClientResponseError) and not isinstance(
            error, aiohttp.ClientHttpProxyError
        ):
            return ProviderError(f"{name} does not speak its wire format ({type(error).__name__})", resource=name)
        return TargetDown(f"{name}: the connection failed ({type(error).__name__})", resource=name)

    async def close(self) -> None:
        self._spares.close()
        await self._session.close()

    def __repr__(self) -> str:
        return f"<HttpProvider {self._settings.name} {self._settings.base_url} {self._wire!r}>"


def _lowered(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
