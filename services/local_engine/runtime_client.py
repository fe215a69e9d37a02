"""HTTP to one runtime: connections, limits of its silence, and what its failures mean."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

import aiohttp
import jiter
from aiohttp import ClientTimeout

from services.local_engine.dialect import Reader
from services.local_engine.runtime_errors import FOREIGN, RUNTIMES, meant, patient
from services.local_engine.settings import RuntimeSettings
from spillway import v1
from spillway.errors import DeadlineExceeded, SpillwayError, TargetDown, TargetTimeout
from spillway.openai.connection import Spares, read_body
from spillway.openai.errors import understood
from spillway.rpc.call import Call

MAX_ERROR_BYTES = 64 * 2**10
MAX_WHOLE_BYTES = 16 * 2**20
STREAMS = ("text/event-stream", "application/x-ndjson")

Waited = TypeVar("Waited")


class RuntimeClient:
    """One runtime: its address, key and connections. Raises SpillwayError alone."""

    def __init__(self, name: str, address: str, settings: RuntimeSettings, key: str | None) -> None:
        self.name = name
        self._address = address
        self._settings = settings
        self._spares = Spares()
        headers = {"accept-encoding": "identity"}  # the answer comes in small pieces and at once: no compression
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # how much runs at once is decided in front of the engine
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            trust_env=False,  # it is on the site: no proxy is between
            timeout=ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
        )

    async def get(self, path: str) -> bytes:
        """Return the body of `path`. Raises SpillwayError for anything but a 200, in the time for small requests."""
        return await self._asked("GET", path, None)

    async def ask(self, path: str, body: object) -> Any:
        """Return the JSON that `path` answers to `body`."""
        return self._json(await self._asked("POST", path, body))

    async def told(self, path: str) -> Any:
        """Return the JSON of `path`."""
        return self._json(await self.get(path))

    async def stream(self, path: str, body: object, call: Call, reader: Reader) -> AsyncGenerator[list[v1.Delta], None]:
        """Yield what has arrived since the last pull, one delta per choice.

        Closed early, it closes the connection at once: that is how a runtime learns to stop.
        """
        failed: SpillwayError | None = None
        response: aiohttp.ClientResponse | None = None
        complete = False
        watch = _Watch(self.name, call, self._settings)
        try:
            response = await watch.wait(self._post(path, body))
            if response.status != 200:
                raise await self._refusal(response)
            if response.content_type in STREAMS:
                while not reader.done:
                    data = await watch.wait(response.content.readany())
                    if deltas := reader.feed(data):
                        watch.heard()
                        yield deltas
                    if not data:
                        break
            elif deltas := reader.whole(await watch.wait(read_body(response, MAX_WHOLE_BYTES))):
                yield deltas
            reader.check()
            complete = True
        except FOREIGN as error:
            failed = meant(self.name, error)
        finally:
            if response is not None:
                if complete:
                    self._spares.keep(response)
                else:
                    response.close()
        if failed is not None:
            raise failed  # out of the handler: the foreign error may know the request's headers, the key among them

    async def answer(self, path: str, body: object, call: Call, limit: int) -> bytes:
        """Return what `path` answers to `body`, a little over `limit` bytes at most, when it is whole.

        Left early, it closes the connection at once.
        """
        failed: SpillwayError
        response: aiohttp.ClientResponse | None = None
        watch = _Watch(self.name, call, self._settings)
        try:
            response = await watch.wait(self._post(path, body))
            if response.status != 200:
                raise await self._refusal(response)
            told = await watch.wait(read_body(response, limit))
        except FOREIGN as error:
            failed = meant(self.name, error)
        else:
            self._spares.keep(response)
            response = None
            return told
        finally:
            if response is not None:
                response.close()
        raise failed  # out of the handler, as above

    async def close(self) -> None:
        self._spares.close()
        await self._session.close()

    async def _post(self, path: str, body: object) -> aiohttp.ClientResponse:
        data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        return await self._session.post(
            f"{self._address}{path}", data=data, headers={"content-type": "application/json"}, allow_redirects=False
        )

    async def _asked(self, method: str, path: str, body: object | None) -> bytes:
        limit_s = self._settings.request_timeout_s
        failed: SpillwayError
        try:
            async with (
                asyncio.timeout(limit_s) as limit,
                self._session.request(method, f"{self._address}{path}", json=body, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise await self._refusal(response)
                return await read_body(response, MAX_WHOLE_BYTES)
        except FOREIGN as error:
            failed = meant(self.name, error)
            if limit.expired():
                failed = TargetTimeout(f"{self.name} did not answer {path} in {limit_s:g} s", resource=self.name)
        raise failed

    def _json(self, body: bytes) -> Any:
        try:
            return jiter.from_json(body)
        except ValueError:
            raise TargetDown(f"{self.name} does not speak its wire format (no JSON)", resource=self.name) from None

    async def _refusal(self, response: aiohttp.ClientResponse) -> SpillwayError:
        try:
            body = jiter.from_json(await read_body(response, MAX_ERROR_BYTES))
        except (ValueError, *FOREIGN):
            body = None
        headers = {name.lower(): value for name, value in response.headers.items()}
        return patient(understood(self.name, response.status, body, headers, now=time.time(), table=RUNTIMES))

    def __repr__(self) -> str:
        return f"<RuntimeClient {self.name} {self._address}>"


class _Watch:
    """The silence that a runtime may keep: before the first token, and between two. Waiting for a caller is none."""

    def __init__(self, name: str, call: Call, settings: RuntimeSettings) -> None:
        self._name = name
        self._call = call
        self._idle_s = settings.idle_s
        self._limit_s = self._left_s = settings.silence_s
        self.speaking = False
        """It has said something."""

    def heard(self) -> None:
        self.speaking = True
        self._limit_s = self._left_s = self._idle_s

    async def wait(self, coming: Awaitable[Waited]) -> Waited:
        """Return what comes. Raises TargetTimeout after too long a silence, DeadlineExceeded at the deadline."""
        loop = asyncio.get_running_loop()
        began, left = loop.time(), self._call.deadline.left()
        try:
            async with asyncio.timeout(min(self._left_s, left)) as limit:
                return await coming
        except TimeoutError:
            if not limit.expired():
                raise
            if left <= self._left_s:
                raise DeadlineExceeded(f"{self._name} had not answered when the deadline passed") from None
            where = "within its answer" if self.speaking else "before its first token"
            raise TargetTimeout(
                f"{self._name} was silent for {self._limit_s:g} s {where}", resource=self._name
            ) from None
        finally:
            self._left_s -= loop.time() - began
