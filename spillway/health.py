"""Health as grpc.health.v1 tells it: alive, and ready per service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from grpc import StatusCode
from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2 import HealthCheckResponse

from spillway.logs import get_logger
from spillway.rpc import metadata
from spillway.worker import ALONE, Worker

log = get_logger(__name__)

LIVENESS, READINESS, OVERALL = "liveness", "readiness", ""


class _Servicer(health_aio.HealthServicer):  # type: ignore[misc]  # the package is not typed
    """grpc's own, whose watchers can be let go."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._told = () if worker.alone else ((metadata.WORKER, f"{worker.run}/{worker.number}/{worker.count}"),)
        self._watching: set[asyncio.Task[Any]] = set()
        self._ending = False

    async def Check(self, request: Any, context: Any) -> Any:
        if self._told:  # a client that has several connections learns where they lead
            context.set_trailing_metadata(self._told)
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._watching.add(task)
        try:
            await super().Watch(request, context)
        except asyncio.CancelledError:
            if not self._ending:
                raise
            await context.abort(StatusCode.UNAVAILABLE, "this server stops")
        finally:
            self._watching.discard(task)

    def end_watches(self) -> None:
        self._ending = True
        for task in self._watching:
            task.cancel()


class Health:
    """Answers health checks; `liveness` is true while the process answers, everything else follows `ready`."""

    def __init__(self, services: Iterable[str], worker: Worker = ALONE) -> None:
        self.servicer = _Servicer(worker)
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

    def end_watches(self) -> None:
        """Let go of every watcher: the server stops, and would wait for them."""
        self.servicer.end_watches()

    async def _tell(self) -> None:
        status = HealthCheckResponse.SERVING if self.ready else HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self.servicer.set(service, status)

    def __repr__(self) -> str:
        return f"<Health {'ready' if self.ready else 'not ready'}>"
