"""The HTTP server in the router's own event loop: uvicorn, without its signals, its logs and its ticking."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from spillway.logs import get_logger

from .connection import Connection
from .settings import HttpSettings

log = get_logger(__name__)

BACKLOG = 1024
LAST_WORDS_S = 1.0
"""Time for requests that were cut off to say so."""


class Listener:
    """Serves one application on one port. `port` is the real one after `start`."""

    def __init__(
        self, settings: HttpSettings, application: ASGIApp, *, stall_s: float, reuse_port: bool = False
    ) -> None:
        """`stall_s`: a reader that takes nothing for so long is given up. `reuse_port`: others listen there too."""
        self._stall_s, self._reuse_port = stall_s, reuse_port
        host, _, port = (settings.listen or "").rpartition(":")
        self._host, self.port = host.strip("[]"), int(port)
        config = uvicorn.Config(
            application,
            http=Connection,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.keep_alive_s,
            backlog=BACKLOG,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._stopped = False

    @property
    def address(self) -> str:
        """host:port a client on this machine can dial."""
        return f"{'127.0.0.1' if self._host in ('0.0.0.0', '::', '') else self._host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises OSError if the port is taken."""
        found = listening(self._host, self.port, reuse_port=self._reuse_port)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux; connections have it from the socket that they came by
            # A whole answer is handed to the system at once: nobody here would see that its reader takes nothing.
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self._stall_s * 1000))
        await self._server.startup([found])
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        log.info("http.listening", address=self.address)

    async def stop(self, grace_s: float) -> None:
        """Take no new requests, let running ones end within `grace_s` seconds, then end them with an error."""
        if self._stopped or not self._server.started:
            return
        self._stopped = True
        state = self._server.server_state
        for server in self._server.servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()  # idle ones at once, others after their response
        for wait_s in (grace_s, LAST_WORDS_S):
            if running := set(state.tasks):
                _, running = await asyncio.wait(running, timeout=wait_s)
                for task in running:
                    task.cancel()
        for connection in list(state.connections):
            if (transport := connection.transport) is not None:
                transport.abort()  # its reader takes nothing
        log.info("http.stopped", address=self.address)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else f"{len(self._server.server_state.tasks)} requests"
        return f"<Listener {self.address} {state}>"


def listening(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Return a bound TCP socket; raises OSError naming the address.

    Its protocol is named, because asyncio turns Nagle's algorithm off only for sockets that say they are TCP.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return found
