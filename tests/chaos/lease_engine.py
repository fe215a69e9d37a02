"""An engine before the runtime of tests/integration/lease, as a process that can be killed.

python -m tests.chaos.lease_engine SETTINGS RUNTIME: its settings as JSON, and the runtime's address.
"""

from __future__ import annotations

import asyncio
import sys

from services.local_engine.app import build
from services.local_engine.backend import Backend
from services.local_engine.settings import LocalEngineSettings
from spillway import logs
from spillway.leash import end_with_parent
from tests.integration.lease.runtime import RuntimeBackend


async def serve(settings: LocalEngineSettings, runtime: str) -> None:
    """Serve until killed."""

    async def opened(_: LocalEngineSettings) -> Backend:
        return RuntimeBackend(runtime)

    async with build(settings, open_backend=opened) as app:
        await app.died()


if __name__ == "__main__":
    end_with_parent()
    told = LocalEngineSettings.model_validate_json(sys.argv[1])
    logs.configure(told.logs, "local_engine")
    asyncio.run(serve(told, sys.argv[2]))
