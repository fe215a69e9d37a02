"""A real gRPC server in this process, on a free port."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from spillway.deadline import Clock
from spillway.rpc.server import Server, Service
from spillway.settings import ServerSettings
from spillway.telemetry.tracing import Tracing

LOOPBACK = ServerSettings(listen="127.0.0.1:0", announce_s=0, drain_s=0)


@asynccontextmanager
async def serving(
    *services: Service,
    settings: ServerSettings = LOOPBACK,
    tracing: Tracing | None = None,
    clock: Clock = time.monotonic,
    scopes: Mapping[str, str] | None = None,
) -> AsyncIterator[Server]:
    """Serve `services`, ready, for the block."""
    server = Server(settings, services, tracing=tracing or Tracing("test"), clock=clock, scopes=scopes)
    await server.start()
    await server.health.set_ready(True)
    try:
        yield server
    finally:
        await server.close()
