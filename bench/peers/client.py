"""The callers, as a process of their own: reads lines of JSON, each a load, and answers each with what it saw.

A line: {"wire": "session", "grpc" or "http", "address": ..., "model": ..., "load": {...}}. Connections are kept from
one load to the next.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from bench.peers.grpc_caller import GrpcCaller
from bench.peers.http_caller import HttpCaller
from bench.peers.load import FIRST, LATE_S, STARTS_PER_S, Failed, Found, Load, Seen
from bench.peers.session_caller import SessionCaller
from spillway import v1

SPREAD_S = 0.5
"""Within which paced streams begin."""
AFTER_S = 20.0
"""How long answers that are under way are waited for when the time is over."""

Call = Callable[[Seen], Awaitable[None]]
Caller = SessionCaller | GrpcCaller | HttpCaller
CALLERS: Mapping[str, Callable[[str], Caller]] = {"session": SessionCaller, "grpc": GrpcCaller, "http": HttpCaller}


async def measured(call: Call, load: Load) -> Found:
    """Put `load` on what is behind `call`."""
    seen = Seen()
    clock = time.perf_counter
    gc.collect()
    gc.disable()  # a pause of the client's own would be taken for a stall
    began = clock()
    until = began + load.seconds

    async def once() -> None:
        try:
            await call(seen)
            seen.calls += 1
        except Failed as failed:
            seen.failed += 1
            seen.error = seen.error or str(failed)

    async def again_and_again() -> None:
        while True:
            failed = seen.failed
            await once()
            if clock() >= until:
                return
            if seen.failed > failed:
                await asyncio.sleep(0.05)  # who refuses at once is not asked without a pause

    async def later(seconds: float) -> None:
        await asyncio.sleep(seconds)
        await once()

    if load.kind == FIRST:
        starts = round(load.seconds * STARTS_PER_S)
        tasks = [asyncio.create_task(later(number / STARTS_PER_S)) for number in range(starts)]
        longest_s = load.seconds + AFTER_S
    elif load.paced:
        tasks = [asyncio.create_task(later(SPREAD_S * number / load.callers)) for number in range(load.callers)]
        longest_s = load.seconds + SPREAD_S + LATE_S
    else:
        tasks = [asyncio.create_task(again_and_again()) for _ in range(load.callers)]
        longest_s = load.seconds + AFTER_S
    try:
        _, late = await asyncio.wait(tasks, timeout=longest_s)
    finally:
        gc.enable()
    wall_s = clock() - began
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)
    for task in tasks:
        if not task.cancelled():
            task.result()
    seen.cut = len(late)
    return seen.found(wall_s)


async def main() -> None:
    callers: dict[tuple[str, str], Caller] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        told = json.loads(line)
        load = Load(**told["load"])
        wire, address = told["wire"], told["address"]
        caller = callers.get((wire, address))
        if caller is None:
            caller = callers[wire, address] = CALLERS[wire](address)
        found = await measured(asked(caller, told["model"], load), load)
        if found.failed:  # the next load starts with connections that are sound
            del callers[wire, address]
            await caller.close()
        print(json.dumps(found.told()), flush=True)
    with suppress(Failed):
        for caller in callers.values():
            await caller.close()


def asked(caller: Caller, model: str, load: Load) -> Call:
    """One call of `load`."""
    answer, whole = load.answer, load.whole
    if isinstance(caller, HttpCaller):
        return lambda seen: caller.call(model, answer, seen, whole=whole)
    part = v1.Part(text=answer.prompt)
    spec = v1.GenerationSpec(
        model=model,
        chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[part])]),
        coalescing=v1.Coalescing(window_ms=0),
    )
    return lambda seen: caller.call(spec, answer, seen, whole=whole)


if __name__ == "__main__":
    print("ready", flush=True)
    asyncio.run(main())
