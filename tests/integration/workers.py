"""A service of several workers, each reached at a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from spillway.rpc.remote import Remote
from spillway.rpc.spread import Spread
from spillway.telemetry.tracing import Tracing

REACH_S = 120.0


@asynccontextmanager
async def reaching(address: str, workers: int, *, key: str | None = None) -> AsyncIterator[Remote]:
    """Yield what has a connection to each of `workers` at `address`."""
    remote = Remote(address, tracing=Tracing("test"), key=key, spread=True)
    try:
        await reach(remote, workers)
        yield remote
    finally:
        await remote.close()


async def reach(remote: Remote, workers: int) -> None:
    """Return when `remote` has a connection to each of `workers`."""
    assert isinstance(remote.channel, Spread)
    async with asyncio.timeout(REACH_S):
        while await remote.channel.look() != workers or remote.breadth < workers:
            pass


def children(pid: int) -> list[int]:
    """Process ids of those that `pid` started, the oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
