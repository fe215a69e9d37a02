"""A provider that says the same to everybody, at next to no cost: streams of server-sent events, each an HTTP chunk."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress

from bench.dialects import DIALECTS

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Speaker:
    """Answers every request on a connection with `events`, one each `interval_s`; 0: all at once."""

    def __init__(self, events: list[bytes], interval_s: float) -> None:
        framed = [b"%x\r\n%s\r\n" % (len(event), event) for event in events] + [b"0\r\n\r\n"]
        self._pieces = framed if interval_s else [b"".join(framed)]
        self._interval_s = interval_s

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
                writer.write(HEAD)
                for piece in self._pieces:
                    writer.write(piece)
                    if self._interval_s:
                        await asyncio.sleep(self._interval_s)
                await writer.drain()
        writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=DIALECTS, required=True)
    parser.add_argument("--interval-ms", type=float, default=0.0)
    told = parser.parse_args()
    speaker = Speaker(DIALECTS[told.kind].stream(), told.interval_ms / 1000)
    server = await asyncio.start_server(speaker.answer, "127.0.0.1", 0)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
