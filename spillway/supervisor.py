"""Several processes of one service on the same ports: started, watched, started again when they die, ended in order.

Each is a process of its own from the first line on, as gRPC and its threads bear no fork. It gets its settings through
its standard input, a socket, by which it says that it is ready; when that socket ends, the worker drains. So it does
where the supervisor is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from spillway.leash import leashed
from spillway.logs import get_logger
from spillway.reservation import Reservation
from spillway.settings import ScaledSettings
from spillway.worker import Worker

log = get_logger(__name__)

WORKER = "SPILLWAY_WORKER"
"""Environment variable of a worker: its standard input is its supervisor."""
EXIT_SETTINGS, EXIT_START, EXIT_ASKED = 2, 3, 4
"""Of a worker. `EXIT_ASKED`: an operator told this one that the service is to stop."""
STARTS = 3
"""Starts in a row that may fail before the first success."""
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S = 30.0
"""A worker that lived so long starts at the shortest backoff again."""

S = TypeVar("S", bound=ScaledSettings)
Told = Mapping[str, str]
"""What a worker says of itself when it is ready, such as where its metrics are."""
Beside = Callable[[S, "Supervisor[S]"], AbstractAsyncContextManager[None]]
"""What is served beside the workers, for the block."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker ended."""

    code: int
    was_ready: bool
    lived_s: float


class Supervisor(Generic[S]):
    """Runs `read.workers` processes of this program. `told` is what those that are ready said, by process id."""

    def __init__(self, read: S, stop: asyncio.Event, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._stop = stop
        self._clock = clock
        self._code = 0
        self._served = False
        self._folder = ""
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._links: dict[int, asyncio.StreamWriter] = {}
        self.told: Mapping[int, Told] = {}

    async def run(self, beside: Beside[S] | None = None) -> int:
        """Serve until `stop` is set, a worker is told to stop, or the first start fails; return the exit code.

        Raises OSError for a port that is taken, SettingsError for what so many workers cannot share.
        """
        async with AsyncExitStack() as stack:
            folder = self._folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spillway-"))
            reservation = stack.enter_context(Reservation())
            run, count = uuid.uuid4().hex[:8], self._read.workers
            settings = [self._read.of(Worker(number, count, run, folder), reservation.hold) for number in range(count)]
            if apart := self._read.apart():
                log.warning("workers.apart", workers=count, each_has_its_own=apart, mend="set store.url")
            if beside is not None:
                await stack.enter_async_context(beside(self._read, self))
            async with asyncio.TaskGroup() as group:
                for number, each in enumerate(settings):
                    group.create_task(self._keep(number, each), name=f"worker {number}")
                await self._stop.wait()
                for link in self._links.values():
                    link.close()
        log.info("workers.stopped", code=self._code)
        return self._code

    def kill(self) -> None:
        """End every worker now, and leave nothing of them."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _keep(self, number: int, settings: S) -> None:
        """Keep one worker running until all are to stop."""
        failures = 0
        while not self._stop.is_set():
            try:
                ended = await self._run_once(number, settings)
            except OSError as error:  # no memory, process or descriptor is left: there may be one soon
                log.error("worker.not_spawned", worker=number, why=str(error))
                ended = Ended(EXIT_START, was_ready=False, lived_s=0.0)
            if self._stop.is_set():
                return
            if ended.code == EXIT_ASKED:
                self._stop.set()
                return
            failures = 1 if ended.was_ready and ended.lived_s > STEADY_S else failures + 1
            told = ended.code in (EXIT_SETTINGS, EXIT_START)
            if not (self._served or ended.was_ready) and (told or failures >= STARTS):
                self._code = ended.code if told else EXIT_START
                log.error("workers.not_started", worker=number, code=ended.code, starts=failures)
                self._stop.set()
                return
            delay_s = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
            log.error("worker.died", worker=number, code=ended.code, again_in_s=delay_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stop.wait()

    async def _run_once(self, number: int, settings: S) -> Ended:
        """Start a worker and wait for its end. Raises OSError where there can be none."""
        began, was_ready = self._clock(), False
        ours, its = socket.socketpair()
        with its:
            reader, link = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *sys.orig_argv[1:]),
                    stdin=its.fileno(),
                    env={**leashed(dict(os.environ)), WORKER: str(number)},
                )
            except OSError:
                link.close()
                raise
        self._processes[number] = process
        self._links[number] = link
        link.write(pickle.dumps(settings))
        if self._stop.is_set():
            link.close()
        with suppress(OSError):
            if line := await reader.readline():
                was_ready = True
                self._ready(process.pid, json.loads(line))
        code = await process.wait()
        del self._links[number], self._processes[number]
        link.close()
        self.told = {pid: told for pid, told in self.told.items() if pid != process.pid}
        return Ended(code, was_ready, self._clock() - began)

    def _ready(self, pid: int, told: Told) -> None:
        self.told = {**self.told, pid: told}
        if not self._served and len(self.told) == self._read.workers:
            self._served = True
            log.info("workers.ready", workers=len(self.told), **{k: v for k, v in told.items() if k != "metrics"})

    def __repr__(self) -> str:
        return f"<Supervisor {len(self.told)} of {self._read.workers} ready>"
