"""What several workers of a router carry, against one: single calls, and streams in sessions.

Load, engine and everything else on the machine want its cores too, so the rate that is achieved says little where there
are few. What is compared is the CPU of the busiest worker, which is what bounds the rate where each has a core. Of
calls each worker has as many as the one has: with less to do, a process wakes more often for the same work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

from bench.load import DEADLINE_S, spec
from bench.mesh import router
from bench.processes import Measured, started
from bench.row import Capacity
from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.rpc.spread import Spread
from spillway.session.client import Session
from spillway.telemetry.tracing import Tracing
from spillway.v1 import inference_pb2_grpc

WORKERS, ROUNDS = 2, 3
CALLS, CALLERS = 1280, 64
STREAMS, TOKENS = 128, 400
INTERVAL_MS = 10.0

Load = Callable[[Remote, int], Awaitable[int]]
"""Asks as much as so many workers get, and returns how much was answered."""


async def calls(remote: Remote, workers: int) -> int:
    """Calls of five tokens, one after the other from each caller."""
    stub = inference_pb2_grpc.InferenceServiceStub(remote.channel)
    request = v1.GenerateRequest(spec=spec(5))

    async def caller() -> None:
        for _ in range(CALLS // CALLERS):
            await stub.Generate(request, timeout=DEADLINE_S)

    await asyncio.gather(*(caller() for _ in range(CALLERS * workers)))
    return CALLS // CALLERS * CALLERS * workers


async def streams(remote: Remote, workers: int) -> int:
    """Streams of 100 tokens a second in sessions, one for each worker; as many for one: the engine merges by load."""
    session, request = Session(remote), v1.StreamGenerateRequest(spec=spec(TOKENS))

    async def reader() -> int:
        call, tokens = Call("bench", Deadline.after(DEADLINE_S)), 0
        async with session.stream(request, call, span_name="bench") as events:
            async for told in events:
                tokens += told.event.delta.tokens
        return tokens

    try:
        return sum(await asyncio.gather(*(reader() for _ in range(STREAMS))))
    finally:
        await session.close()


async def loaded(address: str, workers: int, load: Load) -> tuple[int, float]:
    """Put `load` on a router; return what was answered and the seconds it took."""
    remote = Remote(address, tracing=Tracing("bench"), spread=True)
    try:
        assert isinstance(remote.channel, Spread)
        while workers > 1 and (await remote.channel.look() != workers or remote.breadth < workers):
            pass
        began = time.perf_counter()
        return await load(remote, workers), time.perf_counter() - began
    finally:
        await remote.close()


async def measured(process: Measured, workers: int, load: Load) -> tuple[tuple[float, ...], float]:
    """Return the CPU that each worker takes for one of what is answered, in seconds, and the rate."""
    before = process.children_cpu_s() if workers > 1 else [process.cpu_s()]
    answered, wall_s = await loaded(process.address, workers, load)
    after = process.children_cpu_s() if workers > 1 else [process.cpu_s()]
    return tuple((now - then) / answered for now, then in zip(after, before, strict=True)), answered / wall_s


def compared(name: str, interval_ms: float, load: Load, unit: str) -> Capacity:
    """One worker and several in turns."""
    with ExitStack() as stack:
        engine = stack.enter_context(started("bench.engine", "--interval-ms", str(interval_ms)))
        one = stack.enter_context(router(engine.address))
        several = stack.enter_context(router(engine.address, workers=WORKERS))

        async def rounds() -> Capacity:
            alone, together, rates = [], [], []
            for at in range(ROUNDS + 1):
                (cpu_s,), rate = await measured(one, 1, load)
                each_s, rate_of_several = await measured(several, WORKERS, load)
                if at:  # the first round warms both
                    alone.append(cpu_s)
                    together.append(each_s)
                    rates.append((rate, rate_of_several))
            return Capacity(name, tuple(alone), tuple(together), tuple(rates), unit)

        return asyncio.run(rounds())


def run() -> Iterator[Capacity]:
    """Both loads."""
    yield compared(f"unary, {CALLERS} callers a worker", 0.0, calls, "calls")
    yield compared(f"sessions, {STREAMS} streams x 100 tokens/s", INTERVAL_MS, streams, "tokens")
