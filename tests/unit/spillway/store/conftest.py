"""A real Valkey, and one that is scripted to be slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from spillway.store.embedded import embedded_valkey


@pytest.fixture
async def valkey() -> AsyncIterator[str]:
    async with embedded_valkey() as url:
        yield url


class SlowRedis:
    """Speaks enough of Redis to be connected to; counts commands, and answers none of `silent`."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.silent: frozenset[str] = frozenset()
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2].decode())
            name = words[0].upper()
            self.commands.append(name)
            if name not in self.silent:
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n" if name == "HELLO" else b"+OK\r\n")

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def slow_redis() -> AsyncIterator[SlowRedis]:
    redis = SlowRedis()
    server = await asyncio.start_server(redis.serve, "127.0.0.1", 0)
    redis.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    yield redis
    redis.close()
    server.close()
    await server.wait_closed()
