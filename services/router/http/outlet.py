"""Where the body of one stream leaves: what comes in one turn of the loop in one write."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Send

from .connection import Connection

MAX_WAITING: Final = 64
"""Pieces of one turn of the loop: twice what a session has on its way of one generation."""


class Turn:
    """This turn of the loop: at its end all outlets that were given something send it. One callback is for all."""

    def __init__(self) -> None:
        self._due: list[Outlet] = []

    def add(self, outlet: Outlet) -> None:
        """Have `outlet` flush when the turn ends."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._end)
        self._due.append(outlet)

    def _end(self) -> None:
        due, self._due = self._due, []
        for outlet in due:
            outlet.flush()

    def __repr__(self) -> str:
        return f"<Turn {len(self._due)} outlets>"


class Outlet:
    """The body of one response of server-sent events: its pieces in the order they are given."""

    __slots__ = ("_connection", "_flow", "_send", "_turn", "_waiting")

    def __init__(self, send: Send, connection: Connection, turn: Turn) -> None:
        self._send = send
        self._connection = connection
        self._flow = connection.flow
        self._turn = turn
        self._waiting: list[str] = []

    @property
    def open(self) -> bool:
        """There is room for a piece now; else `write` waits until there is."""
        return not self._flow.write_paused and len(self._waiting) < MAX_WAITING

    def put(self, piece: str) -> None:
        """Send a piece, for which there is room, with what else comes in this turn of the loop."""
        if not self._waiting:
            self._turn.add(self)
        self._waiting.append(piece)

    def flush(self) -> None:
        """Send what was put."""
        if self._waiting:
            self._connection.write(self._taken())

    async def write(self, piece: str) -> None:
        """Send what was put and `piece`; waits while the reader takes nothing."""
        self._waiting.append(piece)
        await self._send({"type": "http.response.body", "body": self._taken(), "more_body": True})

    async def end(self) -> None:
        """Send what was put, and that there is no more."""
        await self._send({"type": "http.response.body", "body": self._taken()})

    def abort(self) -> None:
        """Send nothing more, nor what the reader has not taken yet."""
        self._waiting.clear()
        self._connection.abort()

    def _taken(self) -> bytes:
        body = "".join(self._waiting).encode()
        self._waiting.clear()
        return body

    def __repr__(self) -> str:
        return f"<Outlet {len(self._waiting)} pieces waiting>"
