"""A server of a bench's process: it says where it listens, which is what bench.processes reads."""

from __future__ import annotations

import grpc


async def listen(server: grpc.aio.Server) -> None:
    """Serve on a port of loopback, print its address, and never return."""
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()
