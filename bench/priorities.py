"""What interactive requests wait for beside background work: marked as such, and first come, first served.

One engine with 16 seats has 64 background streams at any time, a new one for each that ends, while short interactive
requests come one after the other. In one round the background streams say what they are, in the next they do not.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import yaml

from bench.load import DEADLINE_S, engine_request, percentile
from bench.processes import free_address, started
from bench.row import Share
from spillway import v1
from spillway.v1 import inference_pb2_grpc

SEATS, BACKGROUND, BACKGROUND_TOKENS = 16, 64, 192
INTERACTIVE_TOKENS, ROUND_S, ROUNDS = 8, 20.0, 3


async def _round(address: str, priority: v1.Priority.ValueType) -> tuple[list[float], float]:
    """Times to first token of interactive requests, and background tokens per second."""
    first: list[float] = []
    tokens = 0
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def background() -> None:
            nonlocal tokens
            request = engine_request(BACKGROUND_TOKENS)
            request.spec.priority = priority
            while True:
                async for response in stub.StreamGenerate(request, timeout=DEADLINE_S):
                    tokens += response.event.delta.tokens

        streams = [asyncio.create_task(background()) for _ in range(BACKGROUND)]
        await asyncio.sleep(1)  # all seats are taken
        began, before = time.perf_counter(), tokens
        while time.perf_counter() - began < ROUND_S:
            asked, seen = time.perf_counter(), False
            async for response in stub.StreamGenerate(engine_request(INTERACTIVE_TOKENS), timeout=DEADLINE_S):
                if not seen and response.event.WhichOneof("event") == "delta":
                    seen = True
                    first.append(time.perf_counter() - asked)
        rate = (tokens - before) / (time.perf_counter() - began)
        for stream in streams:
            stream.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*streams)
    return first, rate


def run() -> Iterator[Share]:
    """Both ways, taking turns at one engine."""
    with tempfile.TemporaryDirectory() as folder:
        address = free_address()
        config = Path(folder) / "spillway.yaml"
        section = {"server": {"listen": address, "drain_s": 1}, "vllm": {"max_num_seqs": SEATS}}
        config.write_text(yaml.safe_dump({"local_engine": section}))
        with started("services.local_engine", "--config", str(config), address=address):
            waits: dict[int, list[float]] = {v1.PRIORITY_UNSPECIFIED: [], v1.PRIORITY_BACKGROUND: []}
            rates: dict[int, list[float]] = {v1.PRIORITY_UNSPECIFIED: [], v1.PRIORITY_BACKGROUND: []}
            for counted in range(-1, ROUNDS):  # the first round warms up
                for priority in (v1.PRIORITY_UNSPECIFIED, v1.PRIORITY_BACKGROUND):
                    first, rate = asyncio.run(_round(address, priority))
                    if counted >= 0:
                        waits[priority] += first
                        rates[priority].append(rate)
    load = f"{BACKGROUND} background streams, {SEATS} seats"
    slow, quick = (percentile(waits[priority], 0.95) for priority in waits)
    fcfs, marked = (statistics.median(rates[priority]) for priority in rates)
    yield Share(load, "interactive first token, p95", quick * 1e3, slow * 1e3, "ms")
    yield Share(load, "background throughput", marked, fcfs, "tokens/s")
