"""The validator, put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.validator.confidence_file import ConfidenceFile
from services.validator.court import Court
from services.validator.inspector import Inspector
from services.validator.redactor import Redactor
from services.validator.rulings import Rulings
from services.validator.schema_files import read_schemas
from services.validator.scorer import Scorer
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
    settings: ValidatorSettings,
    *,
    tracing: Tracing | None = None,
    clock: Clock = time.monotonic,
    serve: type[ValidatorServicer] = ValidatorServicer,
) -> AsyncIterator[App]:
    """Serve a validator for the block.

    Raises OSError if the port is taken or a worker does not start, SettingsError for a file or a plugin that cannot be
    used.
    """
    async with AsyncExitStack() as stack:
        tracing = tracing or Tracing("validator", settings.telemetry)
        stack.callback(tracing.close)
        registered = await asyncio.to_thread(read_schemas, settings)
        rulings = Rulings(settings)
        stack.push_async_callback(rulings.close)
        workers = Workers(
            settings.judgement,
            settings.workers,
            rulings.texts,
            registered=registered,
            recogniser=settings.inspection.recogniser,
        )
        stack.push_async_callback(workers.close)
        confidence = await asyncio.to_thread(ConfidenceFile, settings.confidence)
        watching = asyncio.create_task(confidence.watch(), name="confidence model")
        stack.callback(watching.cancel)
        servicer = serve(
            Court(settings, workers=workers, tracing=tracing, registered=registered, rulings=rulings),
            Inspector(settings.inspection, workers=workers, tracing=tracing),
            Redactor(settings.inspection, workers=workers, tracing=tracing),
            Scorer(settings.confidence, file=confidence, tracing=tracing),
        )
        service = Service(NAME, servicer, validator_pb2_grpc.add_ValidatorServiceServicer_to_server)
        server = Server(settings.server, [service], tracing=tracing, clock=clock)
        stack.push_async_callback(server.close)
        await server.start()
        await workers.start()
        await rulings.start(workers)
        await server.health.set_ready(True)
        yield App(server, workers)
