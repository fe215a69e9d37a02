"""Calls of InferenceService, each an rpc of its own, on one connection."""

from __future__ import annotations

import time

import grpc

from bench.peers.load import Failed, Reading, Seen
from bench.peers.pace import Answer
from spillway import v1
from spillway.rpc.options import channel_options
from spillway.v1 import inference_pb2_grpc

DEADLINE_S = 120.0


class GrpcCaller:
    """Generate and StreamGenerate."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=channel_options(max_receive_bytes=2**24))
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    async def call(self, request: v1.GenerationSpec, answer: Answer, seen: Seen, *, whole: bool) -> None:
        """Read one answer to its end. Raises Failed for one that does not end well."""
        reading = Reading(seen, time.perf_counter())
        try:
            if whole:
                told = await self._stub.Generate(v1.GenerateRequest(spec=request), timeout=DEADLINE_S)
                reading.take(told.usage.completion_tokens, 1, time.perf_counter())
            else:
                rpc = self._stub.StreamGenerate(v1.StreamGenerateRequest(spec=request), timeout=DEADLINE_S)
                try:
                    async for response in rpc:
                        if response.event.HasField("delta"):
                            reading.take(response.event.delta.tokens, 1, time.perf_counter())
                finally:
                    rpc.cancel()
        except grpc.aio.AioRpcError as broken:
            raise Failed(f"{broken.code().name} {broken.details()}") from None
        if reading.tokens != answer.words:
            raise Failed(f"{reading.tokens} tokens of {answer.words}")

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    def __repr__(self) -> str:
        return "<GrpcCaller>"
