"""What the router keeps of generations that are over: its memory after ten thousand and after a hundred thousand, and
what is left of ten thousand that were cancelled. With the pauses of its garbage collector meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator

import grpc

from bench import session_load
from bench.load import DEADLINE_S, spec
from bench.mesh import PACED_INTERVAL_MS, between
from bench.processes import Measured
from bench.row import Kept
from bench.session import CALLERS
from spillway import v1
from spillway.v1 import inference_pb2_grpc

FEW, MANY, CANCELLED = 10_000, 100_000, 10_000
AT_ONCE = 250
"""Generations that run when all of them are cancelled."""


def generated(router: Measured, count: int) -> float:
    """Have `router` make `count` more generations of one token by session; return the MB that it then holds."""
    for done in range(0, count, FEW):
        asyncio.run(session_load.calls(router.address, FEW, CALLERS, batched=True))
        resident = router.resident_bytes() / 1e6
        print(f"{done + FEW} generations, {resident:.1f} MB", file=sys.stderr, flush=True)
    return resident


def held(router: Measured) -> Counter[str]:
    """Objects that `router` holds, by class."""
    return Counter(json.loads(router.ask("objects")))


async def cancelled(address: str, count: int) -> None:
    """Cancel `count` generations in the middle, half of them in a session and half as calls of their own."""
    request = v1.StreamGenerateRequest(spec=spec(1000))
    for _ in range(count // 2 // AT_ONCE):
        async with session_load.linked(address) as link:
            waiting = set(ids := await link.begin(request, AT_ONCE))
            while waiting:  # for the first token of each
                frame = await link.read()
                waiting -= {number for number, tokens in zip(frame.ids, frame.tokens, strict=True) if tokens}
            await link.cancel(ids)
            running = set(ids)
            while running:
                running -= {told.id for told in (await link.read()).ended}
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def begun_and_left() -> None:
            call = stub.StreamGenerate(request, timeout=DEADLINE_S)
            await call.read()
            call.cancel()

        for _ in range(count // 2 // AT_ONCE):
            await asyncio.gather(*(begun_and_left() for _ in range(AT_ONCE)))


async def settled(router: Measured, before: Counter[str]) -> Counter[str]:
    """Return what there is more than `before`, as soon as that is nothing, or else after five seconds."""
    for _ in range(10):
        left = held(router) - before
        if not left:
            break
        await asyncio.sleep(0.5)  # cancels are on their way
    return left


def pause_ms(router: Measured) -> float:
    """The longest run of the garbage collector of `router` since this was asked before, in milliseconds of CPU."""
    longest: float = max(told["longest_ms"] for told in json.loads(router.ask("pauses")))
    return longest


def ended() -> Kept:
    """Generations that end well."""
    with between(0.0, probed=True) as processes:
        router = processes["router"]
        few = generated(router, FEW)
        before = held(router)
        pause_ms(router)
        many = generated(router, MANY - FEW)
        pause = pause_ms(router)
        left = asyncio.run(settled(router, before))
    return Kept(f"{MANY} generations by session", "router", few, many, dict(left), pause)


def left() -> Kept:
    """Generations that are cancelled, after as many of them."""
    with between(PACED_INTERVAL_MS, stepped=True, probed=True) as processes:
        router = processes["router"]
        asyncio.run(cancelled(router.address, CANCELLED))
        before, few = held(router), router.resident_bytes() / 1e6
        pause_ms(router)
        asyncio.run(cancelled(router.address, CANCELLED))
        pause, many = pause_ms(router), router.resident_bytes() / 1e6
        more = asyncio.run(settled(router, before))
    return Kept(f"{CANCELLED} cancelled, after as many", "router", few, many, dict(more), pause)


def run() -> Iterator[Kept]:
    """Those that end well, then those that are cancelled."""
    yield ended()
    yield left()
