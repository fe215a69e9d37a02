"""`spillway up` as a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SPILLWAY = (sys.executable, "-m", "spillway.cli.main")
FAKE_ENGINE = Path(__file__).parent / "fake_local_engine.py"
START_S, STOP_S = 90.0, 30.0
PORTS = range(20_000, 32_000, 20)
"""Below the ports that systems hand out, so that what a fresh port is chosen for stays free."""


def environ() -> dict[str, str]:
    """This process's environment without what would change what is tested."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPILLWAY_", "OPENAI_"))}
    kept.pop("MODEL", None)
    return kept


def wait_until(condition: Callable[[], Any], what: str, within_s: float = START_S) -> Any:
    """Return what `condition` returns once that is true."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)
    return found


def run_in(folder: Path, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line in `folder`."""
    return subprocess.run(
        [*SPILLWAY, *arguments], cwd=folder, env=environ(), capture_output=True, text=True, timeout=timeout_s
    )


def parents() -> dict[int, int]:
    """Process -> its parent, for all that run on this machine; a zombie does not run."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(place.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    """Return all processes below `pid`."""
    known, found, fresh = parents(), set[int](), {pid}
    while fresh:
        fresh = {child for child, parent in known.items() if parent in fresh} - found
        found |= fresh
    return found


@dataclass
class Up:
    """A running `spillway up`."""

    folder: Path
    process: subprocess.Popen[str]
    output: Path
    seen: set[int] = field(default_factory=set)

    @property
    def state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / ".spillway" / "mesh.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def children(self) -> set[int]:
        """Processes that were started by this one, or by one of those, since the first look, and that still run."""
        self.seen |= descendants(self.process.pid)
        return self.seen & parents().keys()

    def wait_ready(self, within_s: float = START_S) -> None:
        wait_until(lambda: self.state.get("ready") or self.process.poll() is not None, "ready", within_s)
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return self.output.read_text()


def start(folder: Path, *arguments: str, engine: bool = False) -> Up:
    """Start `spillway up` in `folder`, with the fake engine unless the real one is asked for."""
    output = folder / "up.log"
    base = PORTS[os.getpid() * 7 % len(PORTS)]
    command = [*SPILLWAY, "up", "--port-base", str(base), *arguments]
    if not engine:
        command += ["--engine-command", f"{sys.executable} {FAKE_ENGINE}"]
    with output.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environ(), stdout=file, stderr=file, text=True, start_new_session=True
        )
    return Up(folder, process, output)


def finish(up: Up) -> None:
    """End what a failed test may have left."""
    up.children()
    if up.process.poll() is None:
        up.process.send_signal(signal.SIGINT)
        try:
            up.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            up.process.kill()
            up.process.wait()
    wait_until(lambda: not up.children(), "no child is left", STOP_S)


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_in


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def starts() -> Iterator[Callable[..., Up]]:
    """`start`, with everything ended after the test."""
    begun: list[Up] = []

    def begin(folder: Path, *arguments: str, engine: bool = False) -> Up:
        begun.append(start(folder, *arguments, engine=engine))
        return begun[-1]

    yield begin
    for up in begun:
        finish(up)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One mesh with the fake engine for the tests of a module; they leave it as healthy as they found it."""
    up = start(tmp_path_factory.mktemp("mesh"))
    try:
        up.wait_ready()
        yield up
    finally:
        finish(up)
