"""The server every service runs: boundary, health, reflection, channelz, and an orderly end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from spillway.deadline import Clock
from spillway.health import Health
from spillway.logs import get_logger
from spillway.rpc.boundary import Boundary
from spillway.rpc.keys import KeyRing
from spillway.rpc.options import server_options
from spillway.settings import ServerSettings
from spillway.telemetry.tracing import Tracing

log = get_logger(__name__)


class Listener(Protocol):
    """Another way into the same service, which ends with its server."""

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, and let running ones end within `grace_s` seconds. May be called again."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """A servicer and how it is added to a server."""

    name: str
    servicer: Any
    add: Callable[[Any, grpc.aio.Server], None]
    beside: Listener | None = None
    """What ends with it, such as its sessions."""


class Server:
    """A gRPC server on one port. `port` is the real one after `start`."""

    def __init__(
        self,
        settings: ServerSettings,
        services: Sequence[Service],
        *,
        tracing: Tracing,
        clock: Clock = time.monotonic,
        scopes: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._boundary = Boundary(settings, tracing=tracing, clock=clock, scopes=scopes)
        self._shared = not settings.worker.alone
        self._server = grpc.aio.server(
            interceptors=[self._boundary],
            options=server_options(max_receive_bytes=settings.max_receive_bytes, reuse_port=self._shared),
        )
        self._admin: grpc.aio.Server | None = None
        self._beside = [service.beside for service in services if service.beside is not None]
        for service in services:
            service.add(service.servicer, self._server)
        names = [service.name for service in services]
        self.health = Health(names, settings.worker)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, self._server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self.port = self.admin_port = 0
        self._stopping = asyncio.Lock()
        self.draining = False
        """It is on its way out and takes no new work."""
        self._asked = asyncio.Event()
        self._drain_s = settings.drain_s
        self._ended: Callable[[], Awaitable[None]] | None = None

    @property
    def address(self) -> str:
        """host:port a client on this machine can dial."""
        host = self._settings.listen.rpartition(":")[0]
        return f"{'127.0.0.1' if host in ('0.0.0.0', '[::]', '') else host}:{self.port}"

    @property
    def keys(self) -> KeyRing | None:
        """The callers' keys, after `start`; None while no key is asked for."""
        return self._boundary.keys

    def ends_with(self, listener: Listener) -> None:
        """Drain and close `listener` together with this server."""
        self._beside.append(listener)

    def stops_after(self, ended: Callable[[], Awaitable[None]]) -> None:
        """When draining, take calls until `ended()`: gRPC refuses them in words of its own, the servicer in ours."""
        self._ended = ended

    def stop_soon(self, grace_s: float | None = None) -> None:
        """Have the process end as a signal would; running calls may take `grace_s` seconds, or what the settings say.

        Asked again it changes nothing.
        """
        if not self._asked.is_set():
            self._drain_s = self._settings.drain_s if grace_s is None else grace_s
            self._asked.set()

    async def asked_to_stop(self) -> None:
        """Return when `stop_soon` was called."""
        await self._asked.wait()

    async def start(self) -> None:
        """Listen; not ready until `health.set_ready(True)`.

        Raises OSError if a port is taken, SettingsError for a wrong file of keys.
        """
        if self._settings.keys_file is not None:
            self._boundary.keys = await asyncio.to_thread(KeyRing.read, self._settings.keys_file)
        self.port = _listen(self._server, self._settings.listen)
        if own := self._settings.worker.socket:
            _listen(self._server, own)
        await self.health.start()
        await self._server.start()
        if self._settings.admin_listen:
            largest = self._settings.max_receive_bytes
            self._admin = grpc.aio.server(options=server_options(max_receive_bytes=largest, reuse_port=self._shared))
            channelz.add_channelz_servicer(self._admin)
            self.admin_port = _listen(self._admin, self._settings.admin_listen)
            await self._admin.start()
        log.info("server.listening", address=self.address)

    async def drain(self) -> None:
        """Say NOT_SERVING, give balancers time to see it, then let running calls end."""
        self.draining = True
        await self.health.set_ready(False, "stopping")
        await asyncio.sleep(self._settings.announce_s)
        until = asyncio.get_running_loop().time() + self._drain_s
        if self._ended is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._ended()
        self.health.end_watches()
        await self._stop(max(0.0, until - asyncio.get_running_loop().time()))
        log.info("server.stopped", address=self.address)

    async def close(self) -> None:
        """Stop at once; while it drains, when it has drained."""
        await self._stop(0)

    async def _stop(self, grace_s: float) -> None:
        async with self._stopping:  # gRPC crashes the process when a server is stopped twice at once
            await asyncio.gather(self._server.stop(grace_s), *(listener.stop(grace_s) for listener in self._beside))
            if self._admin is not None:
                await self._admin.stop(0)

    def __repr__(self) -> str:
        return f"<Server {self.address} {self.health!r}>"


def _listen(server: grpc.aio.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from None
