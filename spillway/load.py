"""An engine's load as those who watch it are told: at once, when it changes, and often enough to be believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from spillway import v1

INTERVAL_S = 0.25
"""Least time between two loads that differ, where the watcher does not say."""
LEAST_INTERVAL_S = 0.02
HEARTBEAT_S = 2.0
"""Longest time between two loads. A watcher that hears nothing for much longer knows nothing."""


async def watch(
    request: v1.WatchLoadRequest, load: Callable[[], v1.Load], heartbeat_s: float = HEARTBEAT_S
) -> AsyncGenerator[v1.WatchLoadResponse]:
    """Yield what `load()` says until it says that the engine drains."""
    interval_s = max(LEAST_INTERVAL_S, request.interval_ms / 1000 if request.HasField("interval_ms") else INTERVAL_S)
    clock = asyncio.get_running_loop().time
    sequence, told, told_at = 0, None, 0.0
    while True:
        now = load()
        changing = (now.state, now.running, now.waiting, now.HasField("running"))
        if changing != told or clock() - told_at >= heartbeat_s:
            told, told_at = changing, clock()
            sequence += 1
            yield v1.WatchLoadResponse(load=now, sequence=sequence)
        if now.state == v1.ENGINE_STATE_DRAINING:
            return
        await asyncio.sleep(interval_s)
