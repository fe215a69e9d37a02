"""The floor: a bare grpc.aio relay of InferenceService. It parses and re-emits, and does nothing else."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from bench.listening import listen
from spillway import v1
from spillway.v1 import inference_pb2_grpc


class Relay(inference_pb2_grpc.InferenceServiceServicer):
    """Generate and StreamGenerate, passed on."""

    def __init__(self, address: str) -> None:
        self._stub = inference_pb2_grpc.InferenceServiceStub(grpc.aio.insecure_channel(address))

    async def Generate(self, request: v1.GenerateRequest, context: Any) -> v1.GenerateResponse:
        return await self._stub.Generate(request, timeout=context.time_remaining())

    async def StreamGenerate(
        self, request: v1.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[v1.StreamGenerateResponse]:
        async for response in self._stub.StreamGenerate(request, timeout=context.time_remaining()):
            yield response


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True)
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Relay(parser.parse_args().to), server)  # type: ignore[abstract]
    await listen(server)


if __name__ == "__main__":
    asyncio.run(main())
