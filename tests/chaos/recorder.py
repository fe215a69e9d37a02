"""The only way out: a TCP relay that keeps every byte that left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(slots=True)
class Recorder:
    """Relays to one address and keeps what passed on the way there."""

    to: str
    address: str = ""
    left: bytearray = field(default_factory=bytearray)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        host, _, port = self.to.rpartition(":")
        onward_reader, onward_writer = await asyncio.open_connection(host, int(port))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, keep: bool) -> None:
            with suppress(ConnectionError):
                while content := await source.read(65_536):
                    if keep:
                        self.left += content
                    sink.write(content)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, onward_writer, True), pump(onward_reader, writer, False))


@asynccontextmanager
async def recording(to: str) -> AsyncIterator[Recorder]:
    """Serve a recorder before `to` for the block."""
    recorder = Recorder(to)
    server = await asyncio.start_server(recorder.relay, "127.0.0.1", 0)
    recorder.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield recorder
    finally:
        server.close()
