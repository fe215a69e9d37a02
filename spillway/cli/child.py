"""One process of the mesh: started, watched until it is healthy, started again when it dies, ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape

from spillway.cli.tail import Tail
from spillway.cli.terminal import plain
from spillway.leash import leashed

EXIT_SETTINGS = 2
"""As `spillway.process` says it: starting it again changes nothing."""
STARTS = 3
"""Starts in a row that may fail before the mesh gives up on a process that was never healthy."""
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S = 30.0
"""A process that lived so long starts at the shortest backoff again."""
UNREADY_STOP_S = 2.0
LAST_LINES = 20
UNTOLD_LINES = 5
"""Last lines that are no events of ours, told when a process dies: a traceback, say."""
FOLLOW_S = 0.1

Tell = Callable[[str], None]
Probe = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Program:
    """What is run. `address` (host:port) is where `probe` asks whether it is healthy."""

    name: str
    arguments: Sequence[str]
    address: str
    probe: Probe
    environ: Mapping[str, str] = field(default_factory=dict)


class ChildRefused(Exception):
    """A process that cannot run here: its settings are wrong, or it never came up. `last` is what it said."""

    def __init__(self, name: str, why: str, last: Sequence[str], *, settings: bool) -> None:
        super().__init__(f"{name} {why}")
        self.name = name
        self.last = tuple(last)
        self.settings = settings


class Child:
    """Runs one program until `stop`. `healthy` is set while it answers as ready.

    It writes to the file `log`, and `on_line` gets every line of it; `tell` gets what a person should know; `changed`
    is called when the state here has.
    """

    def __init__(
        self,
        program: Program,
        *,
        on_line: Callable[[str, str], None],
        tell: Tell,
        changed: Callable[[], None],
        log: Path,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        self.program = program
        self.healthy = asyncio.Event()
        self.pid = 0
        self.starts = 0
        self.started_at = 0.0
        self.ready_after_s: float | None = None
        self._backoff_s = backoff_s
        self._on_line, self._tell, self._changed, self._log = on_line, tell, changed, log
        self._process: asyncio.subprocess.Process | None = None
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._stopping = False

    @property
    def name(self) -> str:
        return self.program.name

    async def supervise(self) -> None:
        """Keep the program running; returns after `stop`. Raises ChildRefused if it cannot run here."""
        failures = 0
        while not self._stopping:
            code, was_healthy, lived_s = await self._run_once()
            if self._stopping:
                return
            if code == EXIT_SETTINGS:
                raise ChildRefused(self.name, "refused its settings", self._last, settings=True)
            failures = 1 if lived_s > STEADY_S else failures + 1
            if self.ready_after_s is None and failures >= STARTS:
                why = f"never became ready: {failures} starts, the last one {ended(code)}"
                raise ChildRefused(self.name, why, self._last, settings=False)
            delay = self._backoff_s[min(failures, len(self._backoff_s)) - 1]
            when = "" if was_healthy else " before it was ready"
            self._tell(f"[bold red]{self.name} {ended(code)}[/]{when}; starting it again in {delay:g} s")
            for line in [line for line in self._last if not line.startswith("{")][-UNTOLD_LINES:]:
                self._tell(f"  [dim]{escape(plain(line))}[/]")
            await asyncio.sleep(delay)

    async def _run_once(self) -> tuple[int, bool, float]:
        """Start the program and wait for its end; return its exit code, whether it was healthy, and its age."""
        self._last.clear()
        self.started_at = time.monotonic()
        self.starts += 1
        output = await asyncio.to_thread(self._log.open, "ab")
        with output:  # a file and no pipe: it holds nobody up, and it still takes lines when this process is gone
            tail = await asyncio.to_thread(Tail, self._log)
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "spillway.leash", *self.program.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=leashed({**os.environ, **self.program.environ}),
                start_new_session=True,  # a terminal's Ctrl-C is for the parent to carry out, in order
            )
        self.pid = process.pid
        self._changed()
        watch = asyncio.create_task(self._watch())
        over = asyncio.Event()
        reading = asyncio.create_task(self._follow(tail, over))
        was_healthy = False
        try:
            code = await process.wait()
        finally:
            watch.cancel()
            was_healthy = self.healthy.is_set()
            self.healthy.clear()
            self._end_group(signal.SIGKILL)  # what it left behind, an engine's workers say
            over.set()
            await reading
            tail.close()
            self._changed()
        return code, was_healthy, time.monotonic() - self.started_at

    async def _watch(self) -> None:
        while True:
            if await self.program.probe(self.program.address):
                break
            await asyncio.sleep(0.15)
        self.ready_after_s = time.monotonic() - self.started_at
        self.healthy.set()
        self._changed()
        if self.starts > 1:
            self._tell(f"{self.name} is ready again after {self.ready_after_s:.1f} s")

    async def _follow(self, tail: Tail, over: asyncio.Event) -> None:
        """Pass on every line, the last ones too, once the process is `over`."""
        while True:
            was_over = over.is_set()
            lines = await asyncio.to_thread(tail.lines)
            for line in lines:
                self._last.append(line)
                self._on_line(self.name, line)
            if was_over and not lines:
                return
            await asyncio.sleep(0 if lines or over.is_set() else FOLLOW_S)

    async def stop(self, within_s: float) -> None:
        """Ask the program to end, and end it after `within_s` seconds; sooner if it was never ready to do anything."""
        self._stopping = True
        if not self.healthy.is_set():
            within_s = min(within_s, UNREADY_STOP_S)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), within_s)
        except TimeoutError:
            if self.healthy.is_set():
                self._tell(f"{self.name} did not end within {within_s:g} s: killed")
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """End the program and what it started, now."""
        self._stopping = True
        self._end_group(signal.SIGKILL)

    def _end_group(self, number: signal.Signals) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def __repr__(self) -> str:
        state = "healthy" if self.healthy.is_set() else "stopping" if self._stopping else "not ready"
        return f"<Child {self.name} pid {self.pid} {state}>"


def ended(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
