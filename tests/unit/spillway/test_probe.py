"""A probe's exit code is what a supervisor acts on."""

from __future__ import annotations

import asyncio

from spillway.probe import NO_ANSWER, NOT_SERVING, SERVING, probe
from spillway.testing.server import serving


async def test_a_ready_server_is_told_from_one_that_is_not_and_from_none() -> None:
    async with serving() as server:
        assert await asyncio.to_thread(probe, server.address) == (SERVING, "SERVING")
        await server.health.set_ready(False)
        assert await asyncio.to_thread(probe, server.address) == (NOT_SERVING, "NOT_SERVING")
        assert await asyncio.to_thread(probe, server.address, "liveness") == (SERVING, "SERVING")
        assert await asyncio.to_thread(probe, server.address, "no.such.Service") == (NOT_SERVING, "NOT_FOUND")
        address = server.address
    assert await asyncio.to_thread(probe, address, limit_s=0.2) == (NO_ANSWER, "DEADLINE_EXCEEDED")
