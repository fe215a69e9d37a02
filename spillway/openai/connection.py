"""An HTTP response read to its bound, and its connection kept for the next request where that is cheap."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

LAST_BYTES_S: Final = 1.0
"""Longest wait for the last bytes of a body that has told all; else the connection is closed."""


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body, or as much of it as is read of any: a little over `limit` bytes."""
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > limit:
            break
    return bytes(body)


class Spares:
    """Connections whose answers are over and whose bodies end any moment."""

    def __init__(self) -> None:
        self._ending: dict[asyncio.Task[None], aiohttp.ClientResponse] = {}

    def keep(self, response: aiohttp.ClientResponse) -> None:
        """Keep the connection for the next request, once the body's last bytes are there."""
        if response.content.is_eof():
            response.release()
            return
        task = asyncio.create_task(_end(response))
        self._ending[task] = response
        task.add_done_callback(self._ending.pop)

    def close(self) -> None:
        """Close those that have not ended."""
        for task, response in tuple(self._ending.items()):
            task.cancel()
            response.close()

    def __repr__(self) -> str:
        return f"<Spares {len(self._ending)} ending>"


async def _end(response: aiohttp.ClientResponse) -> None:
    try:
        async with asyncio.timeout(LAST_BYTES_S):
            while await response.content.readany():
                pass
        response.release()
    except (aiohttp.ClientError, TimeoutError, OSError):
        response.close()
