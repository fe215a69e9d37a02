"""Waiting for something that is about to be true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Return once `condition()` holds; raises TimeoutError after `within_s` seconds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the condition is somebody else's state, which has no event
            await asyncio.sleep(0.005)
