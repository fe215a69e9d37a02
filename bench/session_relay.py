"""The floor of sessions: a bare grpc.aio relay of frames. It passes bytes on, both ways, and looks into none."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from bench.listening import listen
from spillway.rpc.methods import SESSION
from spillway.rpc.options import channel_options

RECEIVE_BYTES = 2**24


class Relay:
    """Session, passed on."""

    def __init__(self, address: str) -> None:
        channel = grpc.aio.insecure_channel(address, options=channel_options(max_receive_bytes=RECEIVE_BYTES))
        self._session: Any = channel.stream_stream(SESSION)

    async def serve(self, frames: AsyncIterator[bytes], context: Any) -> None:
        """Carry one session."""
        rpc = self._session()

        async def up() -> None:
            async for frame in frames:
                await rpc.write(frame)

        asking = asyncio.create_task(up())
        try:
            async for frame in rpc:
                await context.write(frame)
        finally:
            asking.cancel()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True)
    server = grpc.aio.server()
    service, method = SESSION.lstrip("/").split("/")
    handler: Any = grpc.stream_stream_rpc_method_handler(Relay(parser.parse_args().to).serve)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    await listen(server)


if __name__ == "__main__":
    asyncio.run(main())
