"""Load on an InferenceService, from this process: calls, paced streams, streams flat out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import dataclass, field

import grpc

from spillway import v1
from spillway.v1 import engine_pb2_grpc, inference_pb2_grpc

DEADLINE_S = 120.0
PROMPT = list(range(5, 45))
"""Token ids; which does not matter, every answer runs to its full length."""
ENDLESS = 1500
"""Tokens that take longer than anything measured beside them."""
SETTLE_S = 0.1
"""Time for a request to reach an engine's queue."""
CROWD, CROWD_S = 100, 3.0
"""Streams that are cancelled, and the seconds within which all of them are."""


def spec(words: int, window_ms: int = 0) -> v1.GenerationSpec:
    """A request whose answer has `words` tokens, merged within `window_ms`."""
    found = v1.GenerationSpec(
        chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="measure this")])]),
        coalescing=v1.Coalescing(window_ms=window_ms),
    )
    found.extra["words"] = words
    return found


@dataclass(slots=True)
class Streamed:
    """What the readers of all streams saw. Times in seconds."""

    tokens: int = 0
    messages: int = 0
    wall_s: float = 0.0
    gaps: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.tokens / max(1, self.messages):.1f} tokens a message, "
            f"gap p50 {percentile(self.gaps, 0.5) * 1e3:.0f} p99 {percentile(self.gaps, 0.99) * 1e3:.0f} ms, "
            f"first token p50 {percentile(self.first, 0.5) * 1e3:.0f} ms, {self.tokens / self.wall_s:.0f} tokens/s"
        )


async def calls(address: str, total: int, callers: int, words: int = 5) -> Streamed:
    """Make `total` unary calls from `callers` at once, of `words` tokens, once the channel has been used."""
    seen = Streamed()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = v1.GenerateRequest(spec=spec(words))

        async def caller() -> None:
            for _ in range(total // callers):
                await stub.Generate(request, timeout=DEADLINE_S)

        for _ in range(20):
            await stub.Generate(request, timeout=DEADLINE_S)
        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        seen.wall_s = time.perf_counter() - began
    return seen


async def round_trips(address: str, total: int, callers: int) -> list[float]:
    """Make `total` unary calls with nothing in them, from `callers` at once; return the seconds that each took."""
    took: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/bare/Call")

        async def caller() -> None:
            for _ in range(total // callers):
                began = time.perf_counter()
                await method(b"", timeout=DEADLINE_S)
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(caller() for _ in range(callers)))
    return took


async def streams(address: str, count: int, words: int, window_ms: int) -> Streamed:
    """Read `count` streams of `words` tokens at once."""
    return await _read(address, v1.StreamGenerateRequest(spec=spec(words, window_ms)), count)


async def short_streams(address: str, total: int, callers: int) -> Streamed:
    """Read `total` streams of one token, `callers` at once."""
    return await _read(address, v1.StreamGenerateRequest(spec=spec(1)), callers, total // callers)


async def _read(address: str, request: v1.StreamGenerateRequest, count: int, each: int = 1) -> Streamed:
    """Read `count` streams at once, `each` one after the other."""
    seen = Streamed()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def read_one() -> None:
            began = last = time.perf_counter()
            async for response in stub.StreamGenerate(request, timeout=DEADLINE_S):
                if response.event.WhichOneof("event") != "delta":
                    continue
                now = time.perf_counter()
                if last == began:
                    seen.first.append(now - began)
                else:
                    seen.gaps.append(now - last)
                last = now
                seen.messages += 1
                seen.tokens += response.event.delta.tokens

        async def reader() -> None:
            for _ in range(each):
                await read_one()

        began = time.perf_counter()
        await asyncio.gather(*(reader() for _ in range(count)))
        seen.wall_s = time.perf_counter() - began
    return seen


def engine_request(tokens: int) -> v1.StreamGenerateRequest:
    """A greedy answer of exactly `tokens` tokens, merged as the engine does by default."""
    return v1.StreamGenerateRequest(
        spec=v1.GenerationSpec(
            tokens=v1.TokenPrompt(ids=PROMPT),
            sampling=v1.Sampling(temperature=0, max_tokens=tokens),
            stop=v1.Stop(ignore_eos=True),
        )
    )


async def engine_streams(address: str, count: int, tokens: int) -> Streamed:
    """Read `count` streams of `tokens` tokens each from an engine."""
    return await _read(address, engine_request(tokens), count)


async def cancel(address: str) -> float:
    """Seconds from a cancel to the first token of a request that waited for the cancelled one's place."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def first_delta(responses: AsyncIterable[v1.StreamGenerateResponse]) -> None:
            async for response in responses:
                if response.event.WhichOneof("event") == "delta":
                    return

        running = stub.StreamGenerate(engine_request(ENDLESS), timeout=DEADLINE_S)
        await first_delta(running)
        waiting = asyncio.create_task(first_delta(stub.StreamGenerate(engine_request(1), timeout=DEADLINE_S)))
        await asyncio.sleep(SETTLE_S)
        began = time.perf_counter()
        running.cancel()
        await waiting
        return time.perf_counter() - began


def departures(seed: int) -> list[float]:
    """When each stream of a crowd is cancelled: seconds from the start, chosen by chance."""
    chance = random.Random(seed)
    return [chance.uniform(0, CROWD_S) for _ in range(CROWD)]


async def cancels(address: str, seed: int) -> float:
    """Seconds from the last cancel of a crowd until the engine says it has nothing, and has served the next request."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        telemetry = engine_pb2_grpc.EngineTelemetryServiceStub(channel)

        async def leave(after_s: float) -> float:
            call = stub.StreamGenerate(engine_request(ENDLESS), timeout=DEADLINE_S)
            reading = asyncio.create_task(_drained(call))
            await asyncio.sleep(after_s)
            left = time.perf_counter()
            call.cancel()
            await asyncio.wait([reading])
            return left

        began = max(await asyncio.gather(*map(leave, departures(seed))))
        while True:
            load = (await telemetry.GetLoad(v1.GetLoadRequest())).load
            if not (load.running or load.waiting or load.kv_cache_usage):
                break
        await _drained(stub.StreamGenerate(engine_request(1), timeout=DEADLINE_S))
        return time.perf_counter() - began


async def _drained(responses: AsyncIterable[v1.StreamGenerateResponse]) -> None:
    with suppress(asyncio.CancelledError):
        async for _ in responses:
            pass


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of `values` lie; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
