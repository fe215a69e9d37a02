"""A collector of telemetry that takes all there is and keeps nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from bench.listening import listen


class Taking(grpc.GenericRpcHandler):
    """Answers every unary call with an empty message."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(_taken)


async def _taken(request: bytes, context: Any) -> bytes:
    return b""


async def main() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Taking(),))
    await listen(server)


if __name__ == "__main__":
    asyncio.run(main())
