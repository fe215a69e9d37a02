"""A sign of life of a unary rpc: its headers, sent before the answer is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def sign_of_life(context: Any, headers: tuple[tuple[str, str], ...]) -> AsyncIterator[Callable[[], None]]:
    """Yield what sends `headers` at its first call; they are out, or have failed, when the block ends."""
    sent: list[asyncio.Task[None]] = []

    def alive() -> None:
        if not sent:
            sent.append(asyncio.create_task(context.send_initial_metadata(headers)))

    try:
        yield alive
    finally:
        await asyncio.gather(*sent, return_exceptions=True)
