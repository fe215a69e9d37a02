"""Calls of OpenAI's chat completions, on connections that are kept.

Bytes are not parsed, so that the client costs little: a token is a word of the text, and every chunk is an event.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Final

from bench.peers.load import Failed, Reading, Seen
from bench.peers.pace import WORDS, Answer

_WORD: Final = WORDS[0].strip().encode()
_EVENT: Final = b"data: {"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END: Final = b"0\r\n\r\n"
"""Of a body in chunks."""


class _Connection(asyncio.Protocol):
    """One connection, and the answer that is read on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reading: Reading | None = None
        self._ended: asyncio.Future[None] | None = None
        self._streams = False
        self._head = b""
        self._left = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(Failed("the connection was closed"))

    @property
    def idle(self) -> bool:
        """It is open, and no answer is read on it."""
        return self._transport is not None and self._ended is None

    async def ask(self, request: bytes, reading: Reading, *, whole: bool) -> None:
        assert self._transport is not None
        self._reading, self._streams = reading, not whole
        self._head, self._tail, self._left = b"", b"", -1
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._ended
        except asyncio.CancelledError:
            if self._transport is not None:
                self._transport.abort()
            raise

    def data_received(self, data: bytes) -> None:
        if self._ended is None or self._reading is None:
            return
        if self._left == -1:
            self._head += data
            head, there, data = self._head.partition(b"\r\n\r\n")
            if not there:
                return
            if head[9:12] != b"200":
                self._end(Failed(f"{head[9:60].decode(errors='replace')!r} {data[:200].decode(errors='replace')}"))
                return
            length = _LENGTH.search(head)
            self._left = int(length[1]) if length else -2  # the body is in chunks
        self._take(data)

    def _take(self, data: bytes) -> None:
        assert self._reading is not None
        known = self._tail[-len(_WORD) + 1 :] + data
        if tokens := known.count(_WORD):
            chunks = (self._tail[-len(_EVENT) + 1 :] + data).count(_EVENT) if self._streams else 1
            self._reading.take(tokens, chunks, time.perf_counter())
        self._tail = (self._tail + data)[-len(_EVENT) :]
        if self._left == -2:
            if self._tail.endswith(_END):
                self._end(None)
            return
        self._left -= len(data)
        if self._left <= 0:
            self._end(None)

    def _end(self, error: Failed | None) -> None:
        ended, self._ended, self._reading = self._ended, None, None
        if ended is None or ended.done():
            return
        if error is None:
            ended.set_result(None)
            return
        ended.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def __repr__(self) -> str:
        return f"<_Connection{' idle' * self.idle}>"


class HttpCaller:
    """As many connections as calls at once."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._idle: list[_Connection] = []

    async def call(self, request: str, answer: Answer, seen: Seen, *, whole: bool) -> None:
        """Read one answer to its end. Raises Failed for one that does not end well."""
        reading = Reading(seen, time.perf_counter())
        connection = await self._connection()
        await connection.ask(self._bytes(request, answer, whole=whole), reading, whole=whole)
        self._idle.append(connection)
        if reading.tokens != answer.words:
            raise Failed(f"{reading.tokens} tokens of {answer.words}")

    async def _connection(self) -> _Connection:
        while self._idle:
            if (kept := self._idle.pop()).idle:
                return kept
        try:
            loop = asyncio.get_running_loop()
            return (await loop.create_connection(_Connection, self._host, int(self._port)))[1]
        except OSError as error:
            raise Failed(str(error)) from None

    def _bytes(self, model: str, answer: Answer, *, whole: bool) -> bytes:
        asked = {"model": model, "messages": [{"role": "user", "content": answer.prompt}], "stream": not whole}
        body = json.dumps(asked).encode()
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._idle:
            connection.close()

    def __repr__(self) -> str:
        return f"<HttpCaller {len(self._idle)} idle>"
