"""A local engine of no weight, as a process: what `spillway up` runs instead of vLLM where a test needs none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import ConfigDict

from spillway.process import main
from spillway.rpc.server import Server
from spillway.settings import ServiceSettings
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, services


class FakeSettings(ServiceSettings):
    """Section `local_engine`, of which only what every service has is looked at."""

    model_config = ConfigDict(extra="ignore")


@dataclass(frozen=True, slots=True)
class FakeApp:
    server: Server

    async def died(self) -> str:
        await asyncio.Event().wait()
        return ""


@asynccontextmanager
async def build(settings: FakeSettings) -> AsyncIterator[FakeApp]:
    tracing = Tracing("local_engine", settings.telemetry)
    engine = FakeEngine(model="fake", interval_s=0.01, answer=lambda spec: "a fake engine answers word by word")
    server = Server(settings.server, services(engine, settings=settings.server, tracing=tracing), tracing=tracing)
    await server.start()
    await server.health.set_ready(True)
    try:
        yield FakeApp(server)
    finally:
        await server.close()
        tracing.close()


if __name__ == "__main__":
    main("local_engine", FakeSettings, build)
