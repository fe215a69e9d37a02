"""Where one stream leaves: pieces of one turn of the loop in one write, without waiting as long as its reader reads."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Send

from .connection import Connection

MAX_WAITING: Final = 64
"""Pieces of one turn of the loop; an engine and a session have fewer to say."""


class Outlet:
    """The body of one response of server-sent events, in the order its pieces are given."""

    __slots__ = ("_connection", "_send", "_waiting")

    def __init__(self, send: Send, connection: Connection) -> None:
        self._send = send
        self._connection = connection
        self._waiting: list[str] = []

    @property
    def open(self) -> bool:
        """There is room for a piece now; else `write` waits for it."""
        return len(self._waiting) < MAX_WAITING and self._connection.ready

    def put(self, piece: str) -> None:
        """Send a piece, for which there is room, with what else comes in this turn of the loop."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(piece)

    async def write(self, piece: str) -> None:
        """Send what was put and `piece`; waits while the reader takes nothing."""
        self._waiting.append(piece)
        await self._send({"type": "http.response.body", "body": self._taken(), "more_body": True})

    async def end(self) -> None:
        """Send what was put, and that there is no more."""
        await self._send({"type": "http.response.body", "body": self._taken()})

    def _flush(self) -> None:
        if self._waiting and self._connection.ready:
            self._connection.write(self._taken())

    def _taken(self) -> bytes:
        body = "".join(self._waiting).encode()
        self._waiting.clear()
        return body

    def __repr__(self) -> str:
        return f"<Outlet {len(self._waiting)} pieces waiting>"
