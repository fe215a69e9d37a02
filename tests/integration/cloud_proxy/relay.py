"""A way to a real store that can be cut, and that can lose its replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path


class Relay:
    """Between a store at the unix socket `far` and clients of the one at `near`."""

    def __init__(self, far: str, near: Path) -> None:
        self.url = f"unix://{near}"
        self._far = far.removeprefix("unix://")
        self._near = near
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._replies = asyncio.Event()

    async def up(self) -> None:
        """Let everything through."""
        self._replies.set()
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._serve, self._near)

    async def down(self) -> None:
        """Break every connection, and take no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._near.unlink(missing_ok=True)
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def mute(self) -> None:
        """Let what is asked through to the store, and none of its answers back."""
        self._replies.clear()

    def speak(self) -> None:
        """Let the answers through again."""
        self._replies.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._far)
        always = asyncio.Event()
        always.set()
        for source, sink, gate in ((reader, back, always), (there, writer, self._replies)):
            pump = asyncio.create_task(_pump(source, sink, gate))
            self._pumps.add(pump)
            pump.add_done_callback(partial(self._end, sink))  # also of one that was cancelled before it began

    def _end(self, sink: asyncio.StreamWriter, pump: asyncio.Task[None]) -> None:
        self._pumps.discard(pump)
        sink.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    with suppress(ConnectionError):
        while data := await source.read(65536):
            await gate.wait()
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def relayed(far: str, folder: Path) -> AsyncIterator[Relay]:
    """Run a relay before the store at the URL `far`; it is up."""
    relay = Relay(far, folder / "relay.sock")
    await relay.up()
    try:
        yield relay
    finally:
        relay.speak()
        await relay.down()
