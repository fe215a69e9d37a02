"""OpenAI's chat completions over HTTP, and every server that speaks the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from functools import partial

import aiohttp
import jiter
from aiohttp import ClientTimeout

from services.cloud_proxy.key import Key
from services.cloud_proxy.provider import Exchange, Prepared
from services.cloud_proxy.settings import ProviderSettings
from spillway import v1
from spillway.errors import DeadlineExceeded, ProviderError, SpillwayError, TargetDown, TargetTimeout
from spillway.openai import embedding
from spillway.openai.answer import Answer
from spillway.openai.connection import Spares, read_body
from spillway.openai.errors import understood
from spillway.openai.request import body_of
from spillway.openai.sse import EventParser, EventTooLong
from spillway.rpc.call import Call
from spillway.telemetry.tracing import inject

MAX_ERROR_BYTES = 64 * 2**10
MAX_WHOLE_BYTES = 16 * 2**20
NEVER_CEIL_S = 1e9

NOT_REACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorDNSError)
FOREIGN = (aiohttp.ClientError, TimeoutError, OSError, EventTooLong)


class OpenAI:
    """One provider: its address, key and connections."""

    def __init__(self, settings: ProviderSettings, key: Key | None, *, proxy: str | None = None) -> None:
        self._settings = settings
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
        settings = self._settings
        body = body_of(
            spec,
            model,
            max_tokens_field=settings.max_tokens_field,
            extended_sampling=settings.extended_sampling,
            prefill=settings.prefill,
        )
        return Prepared(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(), max(1, spec.sampling.n))

    async def stream(self, prepared: Prepared, call: Call, exchange: Exchange) -> AsyncGenerator[list[v1.Delta], None]:
        failed: SpillwayError | None = None
        response: aiohttp.ClientResponse | None = None
        whole = False
        try:
            response = await self._post("chat/completions", prepared.body, call, exchange)
            if response.status != 200:
                raise await self._refusal(response)
            answer = Answer(self._settings.name, prepared.choices, exchange)
            if response.content_type == "text/event-stream":
                events, limit_s = EventParser(), None
                while not answer.done:
                    data = await self._read(response, limit_s)
                    deltas = answer.take(events.feed(data) if data else events.end())
                    if deltas:
                        limit_s = self._settings.stall_s
                        yield deltas
                    if not data:
                        break
            elif deltas := answer.whole(await read_body(response, MAX_WHOLE_BYTES)):
                yield deltas
            answer.check()
            whole = True
        except FOREIGN as error:
            exchange.sent = not isinstance(error, NOT_REACHED)
            failed = self._meant(error)
        finally:
            if response is not None:
                if whole:
                    self._spares.keep(response)
                else:
                    response.close()  # not released: the provider sees the connection end, and stops
        if failed is not None:
            raise failed  # out of the handler: the foreign error may know the request's headers, the key among them

    async def embed(self, spec: v1.EmbeddingSpec, model: str, call: Call, exchange: Exchange) -> v1.EmbedResponse:
        name, body = self._settings.name, json.dumps(embedding.body_of(spec, model), separators=(",", ":")).encode()
        failed: SpillwayError
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._post("embeddings", body, call, exchange)
            if response.status != 200:
                raise await self._refusal(response)
            told = await read_body(response, embedding.MAX_BODY_BYTES)
        except FOREIGN as error:
            exchange.sent = not isinstance(error, NOT_REACHED)
            failed = self._meant(error)
        else:
            self._spares.keep(response)
            response = None
            # In a thread: numbers that are written out take long to read.
            read = partial(embedding.read_vectors, name, told, spec, exchange, broken=ProviderError)
            return await asyncio.to_thread(read)
        finally:
            if response is not None:
                response.close()
        raise failed  # out of the handler, as above

    async def _post(self, path: str, body: bytes, call: Call, exchange: Exchange) -> aiohttp.ClientResponse:
        """Send `body` under `call`'s deadline, and tell `exchange` with which status the answer begins."""
        left = call.deadline.left()
        if left <= 0:
            raise DeadlineExceeded(f"no time is left to call {self._settings.name}")
        exchange.sent = True
        response = await self._session.post(
            f"{self._settings.base_url}/{path}",
            data=body,
            headers=self._headers(call, left),
            timeout=ClientTimeout(
                total=left,
                sock_connect=self._settings.connect_timeout_s,
                sock_read=self._settings.idle_s,
                ceil_threshold=NEVER_CEIL_S,
            ),
            proxy=self._proxy,
            allow_redirects=False,  # content and key go where the settings say, nowhere else
        )
        exchange.status = response.status
        exchange.provider_request_id = response.headers.get("x-request-id", "")[:100]
        return response

    async def _read(self, response: aiohttp.ClientResponse, limit_s: float | None) -> bytes:
        """What comes next. Raises TargetTimeout after `limit_s` of silence; None: the session's own limit holds."""
        try:
            async with asyncio.timeout(limit_s) as silence:
                return await response.content.readany()
        except TimeoutError:
            if silence.expired():
                name = self._settings.name
                raise TargetTimeout(f"{name} stalled for {limit_s:g} s within its answer", resource=name) from None
            raise

    def _headers(self, call: Call, left: float) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key.reveal()}"
        if self._settings.simulated:  # our own trace and deadline are no real provider's business
            headers.update(inject(call.span))
            headers["x-spillway-deadline-ms"] = str(round(left * 1000))
        return headers

    async def _refusal(self, response: aiohttp.ClientResponse) -> SpillwayError:
        try:
            body = jiter.from_json(await read_body(response, MAX_ERROR_BYTES))
        except (ValueError, *FOREIGN):
            body = None
        return understood(
            self._settings.name,
            response.status,
            body,
            {name.lower(): value for name, value in response.headers.items()},
            now=time.time(),
            request_id=response.headers.get("x-request-id", "")[:100],
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
        return f"<OpenAI {self._settings.name} {self._settings.base_url}>"
