"""Health as grpc.health.v1 tells it: alive, and ready per service."""

from __future__ import annotations

from collections.abc import Iterable

from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2 import HealthCheckResponse

from spillway.logs import get_logger

log = get_logger(__name__)

LIVENESS, READINESS, OVERALL = "liveness", "readiness", ""


class Health:
    """Answers health checks; `liveness` is true while the process answers, everything else follows `ready`."""

    def __init__(self, services: Iterable[str]) -> None:
        self.servicer = health_aio.HealthServicer()
        self._services = (OVERALL, READINESS, *services)
        self.ready = False

    async def start(self) -> None:
        await self.servicer.set(LIVENESS, HealthCheckResponse.SERVING)
        await self._tell()

    async def set_ready(self, ready: bool, why: str = "") -> None:
        """Tell every watcher; logged on change only."""
        if ready != self.ready:
            self.ready = ready
            log.info("health.changed", ready=ready, why=why)
            await self._tell()

    async def _tell(self) -> None:
        status = HealthCheckResponse.SERVING if self.ready else HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self.servicer.set(service, status)

    def __repr__(self) -> str:
        return f"<Health {'ready' if self.ready else 'not ready'}>"
