"""A cloud proxy whose limits hold over a shorter window, as a process that can be killed.

python -m tests.chaos.limited_proxy SETTINGS WINDOW: its settings as JSON, and seconds of the window.
"""

from __future__ import annotations

import asyncio
import sys

from services.cloud_proxy.app import build
from services.cloud_proxy.settings import CloudProxySettings
from spillway import logs
from spillway.leash import end_with_parent


async def serve(settings: CloudProxySettings, window_s: float) -> None:
    """Serve until killed."""
    async with build(settings, environ={}, limit_window_s=window_s) as app:
        await app.died()


if __name__ == "__main__":
    end_with_parent()
    told = CloudProxySettings.model_validate_json(sys.argv[1])
    logs.configure(told.logs, "cloud_proxy")
    asyncio.run(serve(told, float(sys.argv[2])))
