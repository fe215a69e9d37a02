"""A fake provider as a process: OpenAI's chat completions over HTTP/1.1, whole or as server-sent events.

Parses no more of a request than it must, and has every answer's bytes ready, so that it is not what limits.
"""

from __future__ import annotations

import asyncio
import json
import re
from functools import cache
from typing import Any, Final

from bench.peers.pace import WORDS, Answer, Paces, text

MODEL: Final = "simulated"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM: Final = re.compile(rb'"stream": ?true')
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_COMMON: Final = {"id": "chatcmpl-0", "created": 1_700_000_000, "model": MODEL}
_FLAT_PIECES: Final = 64
"""Written at once where an answer has no pace."""


def _json(status: str, value: Any) -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status.encode(),
        len(body),
        body,
    )


@cache
def whole(words: int) -> bytes:
    """An answer of `words` tokens, as one response."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text(words)}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": words, "total_tokens": 5 + words}
    return _json("200 OK", {**_COMMON, "object": "chat.completion", "choices": [choice], "usage": usage})


def _event(data: bytes) -> bytes:
    event = b"data: %s\n\n" % data
    return b"%x\r\n%s\r\n" % (len(event), event)


def _chunk(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {**_COMMON, "object": "chat.completion.chunk", "choices": [choice]}
    return _event(json.dumps(chunk, separators=(",", ":")).encode())


FIRST: Final = _chunk({"role": "assistant", "content": WORDS[0]}, None)
NEXT: Final = tuple(_chunk({"content": word}, None) for word in WORDS)
LAST: Final = _chunk({}, "stop") + _event(b"[DONE]") + b"0\r\n\r\n"
NOT_FOUND: Final = _json("404 Not Found", {"error": {"message": "not found"}})
HELLO: Final = _json("200 OK", {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "nobody"}]})


class Connection(asyncio.Protocol):
    """One connection: one request after the other."""

    def __init__(self, paces: Paces) -> None:
        self._paces = paces
        self._in = b""
        self._transport: asyncio.Transport | None = None
        self._answer = Answer(0, 0)
        self._left = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._paces.of(self._answer).leave(self)

    def data_received(self, data: bytes) -> None:
        self._in += data
        while not self._left:
            head, there, body = self._in.partition(b"\r\n\r\n")
            if not there:
                return
            told = _LENGTH.search(head)
            length = int(told[1]) if told else 0
            if len(body) < length:
                return
            self._in = body[length:]
            self._respond(head, body[:length])

    def _respond(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if not body:
            self._transport.write(HELLO if head.startswith(b"GET ") else NOT_FOUND)
            return
        answer = self._answer = Answer.asked(body)
        if not _STREAM.search(body):
            self._transport.write(whole(answer.words))
            return
        self._left = answer.words
        if not answer.interval_ms:
            self._transport.write(_HEAD)
            self._flow()
            return
        self._transport.write(_HEAD + FIRST)
        self._left -= 1
        if self._left:
            self._paces.of(answer).join(self)
        else:
            self._transport.write(LAST)

    def step(self) -> bool:
        """Say a token of a paced answer."""
        assert self._transport is not None
        self._left -= 1
        said = NEXT[self._left % 2]
        self._transport.write(said if self._left else said + LAST)
        return self._left > 0

    def _flow(self) -> None:
        """Say as much of an answer without a pace as the other side takes."""
        while self._left and not self._paused and self._transport is not None:
            count = min(self._left, _FLAT_PIECES)
            first = self._left == self._answer.words
            self._left -= count
            said = (NEXT[0] + NEXT[1]) * (count // 2) + NEXT[0] * (count % 2)
            if first:
                said = FIRST + said[len(NEXT[0]) :]
            self._transport.write(said if self._left else said + LAST)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if not self._answer.interval_ms:
            self._flow()

    def __repr__(self) -> str:
        return f"<Connection {self._left} left>"


async def main() -> None:
    paces = Paces()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(paces), "127.0.0.1", 0, backlog=4096)
    host, port = server.sockets[0].getsockname()
    print(f"{host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
