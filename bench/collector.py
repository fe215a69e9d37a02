"""A collector of telemetry that takes all there is and keeps nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc


class Taking(grpc.GenericRpcHandler):
    """Answers every unary call with an empty message."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(_taken)


async def _taken(request: bytes, context: Any) -> bytes:
    return b""


async def main() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Taking(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
