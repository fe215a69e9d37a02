"""Processes before a runtime that chokes on two calls, callers over them, and holders of the lease killed at random.

`SPILLWAY_SECONDS=60` makes it the long run: 200 callers over 8 processes.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import SpillwayError
from spillway.leash import leashed
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.waiting import eventually
from spillway.v1 import inference_pb2_grpc
from tests.integration.lease.engines import settings, standing
from tests.integration.lease.runtime import Runtime, serving_runtime

pytestmark = pytest.mark.chaos

SECONDS = float(os.environ.get("SPILLWAY_SECONDS", "8"))
LONG = SECONDS >= 60
PROCESSES, CALLERS = (8, 200) if LONG else (3, 20)
TTL_S, KILL_EVERY_S = 4.0, 5.0 if LONG else 3.0
DEADLINE_S = 30.0
BUSY_MACHINE_S = 3.0
"""What a machine with more processes than cores may add to a wait that the lease bounds."""
ROOT = Path(__file__).parents[2]


class Engine:
    """One process, started again whenever it is killed."""

    def __init__(self, url: str, runtime: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = settings(url, ttl_s=TTL_S, renew_s=1.0, cancel_s=1.0, wait_s=DEADLINE_S)
        told = told.model_copy(
            update={
                "server": told.server.model_copy(update={"listen": self.address}),
                "store": told.store.model_copy(update={"timeout_s": 2.0}),
            }
        )
        self._arguments = [told.model_dump_json(), runtime]
        self.process: asyncio.subprocess.Process | None = None

    async def live(self) -> None:
        """Run it for ever."""
        try:
            while True:
                self.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.chaos.lease_engine", *self._arguments),
                    cwd=ROOT,
                    env=leashed({**os.environ, "PYTHONPATH": str(ROOT)}),
                    stderr=asyncio.subprocess.DEVNULL,
                )
                code = await self.process.wait()
                assert code == -signal.SIGKILL
        finally:
            if self.process is not None and self.process.returncode is None:
                self.process.kill()
                await self.process.wait()


@asynccontextmanager
async def processes(url: str, runtime: Runtime) -> AsyncIterator[list[Engine]]:
    """All of them, warm."""
    engines = [Engine(url, runtime.address) for _ in range(PROCESSES)]
    lives = [asyncio.create_task(engine.live()) for engine in engines]
    try:
        await eventually(lambda: len(runtime.entered) >= PROCESSES, 120)  # their first calls
        yield engines
    finally:
        for life in lives:
            life.cancel()
        await asyncio.wait(lives)
        for life in lives:
            with suppress(asyncio.CancelledError):
                life.result()


async def ask(remote: Remote) -> str:
    """Ask once; "" for a whole answer, else the reason of the typed error."""
    stub = inference_pb2_grpc.InferenceServiceStub(remote.channel)
    request = v1.GenerateRequest(spec=v1.GenerationSpec(text=v1.TextPrompt(text="hello")))
    try:
        told: v1.GenerateResponse = await remote.unary(
            stub.Generate, request, Call("caller", Deadline.after(DEADLINE_S)), span_name="t"
        )
    except SpillwayError as error:
        await asyncio.sleep(random.uniform(0.05, 0.2))  # as a caller does that is told to come back
        return error.reason
    assert told.choices[0].content.text == "wordwordword"
    return ""


async def kill_holders(url: str) -> int:
    """Kill whoever holds the lease, again and again; how often for as long as it lasts is returned on cancel."""
    killed = 0
    try:
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * KILL_EVERY_S)
            while True:
                holders = (await standing(url)).holders
                if holders:
                    break
            pid = int(holders[0].owner.rpartition(":")[2].partition("/")[0])
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    except asyncio.CancelledError:
        return killed


async def test_holders_are_killed_and_no_two_calls_are_in_the_runtime_and_none_is_lost_or_stalls(valkey: str) -> None:
    told: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(serving_runtime(Runtime(interval_s=0.003)))
        engines = await stack.enter_async_context(processes(valkey, runtime))
        remotes = []
        for number in range(CALLERS):
            remote = Remote(engines[number % PROCESSES].address, tracing=Tracing("caller"), name=f"caller {number}")
            stack.push_async_callback(remote.close)
            remotes.append(remote)
        loop = asyncio.get_running_loop()
        began, runtime.entered_at[:] = loop.time(), []

        async def call_on() -> None:
            while loop.time() < began + SECONDS:
                told[await ask(random.choice(remotes))] += 1

        killer = asyncio.create_task(kill_holders(valkey))
        async with asyncio.timeout(SECONDS + DEADLINE_S + 10):
            await asyncio.gather(*(call_on() for _ in range(CALLERS)))
        killer.cancel()
        killed = await killer
        longest_s = max(after - before for before, after in pairwise([began, *runtime.entered_at]))
    print(f"{CALLERS} callers, {PROCESSES} processes, {killed} killed, longest pause {longest_s:.1f} s: {dict(told)}")
    assert (runtime.collisions, runtime.most) == (0, 1)
    assert killed
    assert told[""]
    assert set(told) <= {"", "TARGET_BUSY", "TARGET_DOWN", "EXPIRED"}
    assert longest_s < TTL_S + BUSY_MACHINE_S
