"""Whether a process is ready: asked the way a balancer asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from spillway.health import READINESS
from spillway.rpc.options import channel_options

ASK_S = 1.0


class Prober:
    """Asks grpc.health.v1 over one channel per address."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Prober]:
        """A prober whose channels are closed after the block."""
        prober = cls()
        try:
            yield prober
        finally:
            for channel in prober._channels.values():
                await channel.close()

    async def state(self, address: str) -> str:
        """Return ready, not ready, or no answer."""
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(
                address, options=channel_options(max_receive_bytes=2**20, name="probe")
            )
        stub = HealthStub(self._channels[address])
        try:
            answer = await stub.Check(HealthCheckRequest(service=READINESS), timeout=ASK_S)
        except grpc.aio.AioRpcError:
            return "no answer"
        return "ready" if answer.status == HealthCheckResponse.SERVING else "not ready"

    async def ready(self, address: str) -> bool:
        """Whether the service at `address` says it is ready."""
        return await self.state(address) == "ready"


async def listens(address: str) -> bool:
    """Whether anything accepts connections at `address`; for what has no health service."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), ASK_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
