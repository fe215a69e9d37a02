from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from spillway import supervisor
from spillway.settings import ScaledSettings, ServerSettings
from spillway.supervisor import Supervisor

PROGRAM = """
import asyncio, os, select
from contextlib import asynccontextmanager
from dataclasses import dataclass
from spillway import process
from spillway.rpc.server import Server
from spillway.settings import ScaledSettings, ServerSettings, SettingsHopeless
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, services

class Settings(ScaledSettings):
    server: ServerSettings = ServerSettings(listen="127.0.0.1:0", announce_s=0)
    ends: str = "never"

    def apart(self):
        return ("dice",)

@dataclass
class App:
    server: Server

    async def died(self):
        await asyncio.Event().wait()

@asynccontextmanager
async def build(settings):
    number = settings.server.worker.number
    if settings.ends == "at start" and number == 1:
        raise OSError("the disk is full")
    if settings.ends == "too big":
        raise SettingsHopeless("router.model: 150 GiB too little")
    if settings.ends == "crash":
        os._exit(9)
    server = Server(settings.server, services(FakeEngine()), tracing=Tracing("router"))
    await server.start()
    if settings.ends == "late":
        await asyncio.to_thread(select.select, [0], [], [])
    await server.health.set_ready(True)
    if settings.ends == "asked" and number == 1:
        server.stop_soon(0)
    try:
        yield App(server)
    finally:
        await server.close()

process.main("router", Settings, build)
"""


class Process:
    """A service of two workers, told by its log lines."""

    def __init__(self, config: Path, *arguments: str, **settings: object) -> None:
        config.write_text(json.dumps({"router": settings}))
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--config", str(config), *arguments], stderr=subprocess.PIPE, text=True
        )
        self.seen: list[dict[str, Any]] = []

    def wait_for(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.seen.append(json.loads(line))
            if self.seen[-1]["event"] == event:
                return self.seen[-1]
        raise AssertionError(f"{event} was not logged")

    def workers(self) -> list[int]:
        """Process ids of those that run."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def end(self) -> tuple[int, list[tuple[str, int | None]]]:
        """Wait for the end; return the exit code and every event with its worker."""
        _, err = self.process.communicate(timeout=60)
        self.seen += map(json.loads, err.splitlines())
        return self.process.returncode, [(each["event"], each.get("worker")) for each in self.seen]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "mesh.yaml"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def started(stack: ExitStack, config: Path, *arguments: str, **settings: object) -> Process:
    service = Process(config, *arguments, **settings)
    assert service.process.stderr is not None
    stack.callback(service.process.stderr.close)
    stack.callback(service.process.wait)
    stack.callback(service.process.kill)  # the workers end with it
    return service


def test_a_signal_drains_all_workers_which_log_their_numbers_and_share_a_port(stack: ExitStack, config: Path) -> None:
    service = started(stack, config, "--workers", "2", workers=1)
    ready = service.wait_for("workers.ready")

    service.process.send_signal(signal.SIGTERM)

    code, events = service.end()
    assert code == 0
    assert {("server.stopped", 0), ("server.stopped", 1)} <= set(events)
    assert (events[0], events[-1]) == (("workers.apart", None), ("workers.stopped", None))
    addresses = {each["address"] for each in service.seen if each["event"] == "server.listening"}
    assert addresses == {ready["address"]}


def test_a_signal_that_reaches_every_process_drains_too(stack: ExitStack, config: Path) -> None:
    service = started(stack, config, workers=2)
    service.wait_for("workers.ready")

    for pid in [service.process.pid, *service.workers()]:
        os.kill(pid, signal.SIGTERM)

    code, events = service.end()
    assert code == 0
    assert {("server.stopped", 0), ("server.stopped", 1)} <= set(events)


def test_a_second_signal_ends_all_workers_at_once_and_leaves_no_socket(
    stack: ExitStack, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stack.enter_context(tempfile.TemporaryDirectory())  # sockets bear no long paths
    monkeypatch.setenv("TMPDIR", folder)
    service = started(stack, config, workers=2, server={"listen": "127.0.0.1:0", "announce_s": 600})
    service.wait_for("workers.ready")
    workers = service.workers()

    service.process.send_signal(signal.SIGTERM)
    service.wait_for("health.changed")
    service.process.send_signal(signal.SIGTERM)

    assert service.end()[0] == 130
    until = time.monotonic() + 10  # a process lets go of its pipes some moments before it is over
    while not all(_over(pid) for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert list(Path(folder).iterdir()) == []


def test_workers_end_in_order_where_their_supervisor_is_killed(stack: ExitStack, config: Path) -> None:
    service = started(stack, config, workers=2)
    service.wait_for("workers.ready")

    service.process.kill()

    code, events = service.end()  # which waits for the workers, who hold the pipe
    assert code == -signal.SIGKILL
    assert {("server.stopped", 0), ("server.stopped", 1)} <= set(events)


def test_a_worker_that_dies_is_started_again_and_the_others_go_on(stack: ExitStack, config: Path) -> None:
    service = started(stack, config, workers=2)
    service.wait_for("workers.ready")
    first, second = service.workers()

    os.kill(second, signal.SIGKILL)

    assert service.wait_for("worker.died")["code"] == -signal.SIGKILL
    assert service.wait_for("health.changed")["ready"]
    assert first in service.workers()
    service.process.send_signal(signal.SIGTERM)
    code, events = service.end()
    assert (code, [event for event in events if event[0] == "server.stopped" and event[1] is None]) == (0, [])


def test_workers_drain_that_were_about_to_be_ready_when_their_supervisor_let_them_go(
    stack: ExitStack, config: Path
) -> None:
    service = started(stack, config, workers=2, ends="late")
    service.wait_for("server.listening")

    service.process.send_signal(signal.SIGTERM)

    code, events = service.end()
    assert code == 0
    assert {("server.stopped", 0), ("server.stopped", 1)} <= set(events)
    assert "process.not_started" not in dict(events)


@pytest.mark.parametrize("served", [False, True])
async def test_where_no_process_can_be_started_another_try_follows_once_the_service_was_ready(
    monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    stop, tries = asyncio.Event(), 0

    async def full(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            stop.set()
        raise BlockingIOError("resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", full)
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.0,))
    settings = ScaledSettings(server=ServerSettings(listen="127.0.0.1:0"), workers=2)
    found = Supervisor(settings, stop)
    found._served = served
    await found._keep(0, settings)
    assert (found._code, tries) == ((0, 3) if served else (3, 1))


def test_an_operators_word_to_one_worker_ends_all(stack: ExitStack, config: Path) -> None:
    code, events = started(stack, config, workers=2, ends="asked").end()
    assert code == 0
    assert ("server.stopped", 1) in events
    assert "worker.died" not in dict(events)


def test_workers_that_cannot_start_end_the_service_with_what_they_said(stack: ExitStack, config: Path) -> None:
    code, events = started(stack, config, workers=2, ends="at start").end()
    assert (code, ("process.not_started", 1) in events) == (3, True)

    assert started(stack, config, workers=2, ends="too big").end()[0] == 2


def test_workers_that_crash_again_and_again_before_they_served_end_the_service(stack: ExitStack, config: Path) -> None:
    service = started(stack, config, workers=2, ends="crash")

    assert service.wait_for("workers.not_started")["starts"] == 3
    assert service.end()[0] == 3


def test_a_port_that_is_taken_and_wrong_settings_end_the_service_before_any_worker(
    stack: ExitStack, config: Path
) -> None:
    first = started(stack, config, workers=2)
    address = first.wait_for("server.listening")["address"]

    code, events = started(stack, config, workers=2, server={"listen": address}).end()
    assert (code, events) == (3, [("process.not_started", None)])
    code, events = started(stack, config, workers=2, server={"listen": "unix:/nowhere"}).end()
    assert (code, events) == (2, [("process.not_started", None)])


def _over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
