"""What every simulated provider is, whatever it speaks: a real HTTP server that records who asked and who left."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from spillway.leash import end_with_parent
from spillway.logs import get_logger
from spillway.testing.openai_faults import Faults, HttpFault, Page, Refuse, Reset, Silence, Status, status_of

log = get_logger(__name__)

MAX_BODY_BYTES = 32 * 2**20
SECRET_HEADERS = frozenset({"authorization", "x-api-key", "x-goog-api-key", "api-key"})
WORDS_ECHOED = 8


@dataclass(slots=True)
class Recorded:
    """A request as it arrived, without its key. `disconnected_at` is set when the client left before the end."""

    path: str
    headers: dict[str, str]
    body: Any
    at: float
    key_sent: bool
    running: int
    disconnected_at: float | None = None
    finished: bool = False


@dataclass(slots=True)
class HttpSimulator(ABC):
    """A simulated provider: what goes wrong, how fast it is, who asked.

    `key`: absent, any key is good, even none. `models`: absent, any model is served. Times are seconds.
    """

    key: str | None = None
    models: tuple[str, ...] | None = None
    first_s: float = 0.0
    interval_s: float = 0.0
    faults: Faults = field(default_factory=Faults)
    seen: list[Recorded] = field(default_factory=list)
    running: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request has arrived."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client has left early."""

    @abstractmethod
    def application(self) -> web.Application:
        """The routes of the provider."""

    @abstractmethod
    async def served(self, request: web.Request, body: Any) -> web.StreamResponse:
        """Answer a request that `record` has written down; `body` is its JSON, None if it is none."""

    async def record(self, request: web.Request) -> web.StreamResponse:
        """Have `served` answer `request`, and write down what came and how it ended."""
        try:
            body = json.loads(await request.read())
        except ValueError:
            body = None
        loop = asyncio.get_running_loop()
        headers = {name.lower(): value for name, value in request.headers.items()}
        keyed = not SECRET_HEADERS.isdisjoint(headers)
        for name in SECRET_HEADERS:
            headers.pop(name, None)
        record = Recorded(request.path, headers, body, loop.time(), keyed, self.running + 1)
        self.seen.append(record)
        self.asked.set()
        self.running += 1
        try:
            response = await self.served(request, body)
            record.finished = True
            return response
        except (asyncio.CancelledError, ConnectionError):
            record.disconnected_at = loop.time()
            self.left.set()
            raise
        finally:
            self.running -= 1


async def failed_at_once(
    request: web.Request, fault: HttpFault | None, error: Callable[[Status], web.Response]
) -> web.Response | None:
    """Fail as `fault` says before there is any answer; None if it is another. `error`: in the provider's shape."""
    match fault:
        case Refuse():
            return error(status_of(fault))
        case Status():
            return error(fault)
        case Page():
            return web.Response(status=fault.status, text="<h1>Bad Gateway</h1>", content_type="text/html")
        case Silence():
            await asyncio.Event().wait()
        case Reset():
            drop(request)
            return web.Response()
    return None


def simulated_words(asked: str) -> str:
    """The plain answer: that it is simulated, and what was asked."""
    return f"Simulated cloud answer to: {' '.join(asked.split()[:WORDS_ECHOED])}"


def drop(request: web.Request) -> None:
    """Break the connection off."""
    if request.transport is not None:
        request.transport.abort()


@asynccontextmanager
async def serving(
    simulator: HttpSimulator, *, base: str = "/v1", host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve `simulator` for the block, on a free port unless told; yield the URL that its paths are added to."""
    runner = web.AppRunner(simulator.application(), handler_cancellation=True, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield f"http://{host}:{runner.addresses[0][1]}{base}"
    finally:
        await runner.cleanup()


async def _serve(host: str, port: int, base: str, simulator: HttpSimulator) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    end_with_parent()
    async with serving(simulator, base=base, host=host, port=port) as url:
        log.info("simulator.listening", url=url)
        await stop.wait()


def main(module: str, make: Callable[..., HttpSimulator], *, port: int, base: str = "/v1") -> None:
    """Serve what `make(first_s=, interval_s=)` makes, until a signal comes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description="A simulated provider for demos and tests."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--first-token-ms", type=float, default=100.0)
    parser.add_argument("--token-interval-ms", type=float, default=30.0)
    told = parser.parse_args()
    simulator = make(first_s=told.first_token_ms / 1000, interval_s=told.token_interval_ms / 1000)
    asyncio.run(_serve(told.host, told.port, base, simulator))
