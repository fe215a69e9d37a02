"""The validator, put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.validator.court import Court
from services.validator.inspector import Inspector
from services.validator.redactor import Redactor
from services.validator.servicer import NAME, ValidatorServicer
from services.validator.settings import ValidatorSettings
from services.validator.workers import Workers
from spillway.deadline import Clock
from spillway.rpc.server import Server, Service
from spillway.telemetry.tracing import Tracing
from spillway.v1 import validator_pb2_grpc


@dataclass(frozen=True, slots=True)
class App:
    """A validator that serves."""

    server: Server
    workers: Workers

    async def died(self) -> str:
        """A validator has nothing that can die under it: workers that end are replaced."""
        await asyncio.Event().wait()
        return ""


@asynccontextmanager
async def build(
    settings: ValidatorSettings, *, tracing: Tracing | None = None, clock: Clock = time.monotonic
) -> AsyncIterator[App]:
    """Serve a validator for the block. Raises OSError if the port is taken or a worker does not start."""
    async with AsyncExitStack() as stack:
        tracing = tracing or Tracing("validator", settings.telemetry)
        stack.callback(tracing.close)
        workers = Workers(settings.judgement, settings.workers, settings.inspection.recogniser)
        stack.push_async_callback(workers.close)
        servicer = ValidatorServicer(
            Court(settings, workers=workers, tracing=tracing),
            Inspector(settings.inspection, workers=workers, tracing=tracing),
            Redactor(settings.inspection, workers=workers, tracing=tracing),
        )
        service = Service(NAME, servicer, validator_pb2_grpc.add_ValidatorServiceServicer_to_server)
        server = Server(settings.server, [service], tracing=tracing, clock=clock)
        stack.push_async_callback(server.close)
        await server.start()
        await workers.start()
        await server.health.set_ready(True)
        yield App(server, workers)
