"""A real HTTP proxy: it tunnels by CONNECT, forwards plain requests, and may ask for a password."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(slots=True)
class Forwarder:
    """`password`: USER:PASSWORD, without which it refuses. `status`: what it answers instead of forwarding."""

    password: str = ""
    status: int = 200
    seen: list[str] = field(default_factory=list)
    """First lines of the requests it was asked to forward."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            self.seen.append(first)
            shown = [line for line in lines if line.lower().startswith("proxy-authorization:")]
            good = f"Basic {b64encode(self.password.encode()).decode()}"
            if self.password and [line.partition(": ")[2] for line in shown] != [good]:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            elif self.status != 200:
                writer.write(f"HTTP/1.1 {self.status} No\r\ncontent-length: 0\r\n\r\n".encode())
            else:
                await self._forward(first, [line for line in lines if line not in shown], reader, writer)
            await writer.drain()
        writer.close()

    async def _forward(
        self, first: str, lines: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        method, target, _ = first.split()
        address = target if method == "CONNECT" else target.split("/")[2]
        host, _, port = address.rpartition(":")
        theirs, ours = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            ours.write("\r\n".join([first, *lines]).encode())
        await asyncio.gather(piped(reader, ours), piped(theirs, writer))


async def piped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write what is read, until there is no more."""
    with suppress(ConnectionError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def forwarding(forwarder: Forwarder) -> AsyncIterator[str]:
    """Serve `forwarder` for the block; yield its URL."""
    server = await asyncio.start_server(forwarder.answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
