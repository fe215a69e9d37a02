from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from spillway import process
from spillway.rpc.server import Server
from spillway.settings import ServerSettings, ServiceSettings, SettingsHopeless
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, services

class Settings(ServiceSettings):
    server: ServerSettings = ServerSettings(listen="127.0.0.1:0")
    ends: str = "never"

@dataclass
class App:
    server: Server
    ends: str

    async def died(self):
        if self.ends != "never":
            return self.ends
        await asyncio.Event().wait()

@asynccontextmanager
async def build(settings):
    if settings.ends == "at start":
        raise OSError("the port is taken")
    if settings.ends == "too big":
        raise SettingsHopeless("router.model: 150 GiB too little")
    server = Server(settings.server, services(FakeEngine()), tracing=Tracing("router"))
    await server.start()
    await server.health.set_ready(True)
    if settings.ends == "asked":
        server.stop_soon(0)
        settings = settings.model_copy(update={"ends": "never"})
    try:
        yield App(server, settings.ends)
    finally:
        await server.close()
        print("cleaned up", flush=True)

process.main("router", Settings, build)
"""


class Process:
    """A service of its own process, told by its log lines."""

    def __init__(self, config: Path, **settings: object) -> None:
        config.write_text(json.dumps({"router": settings}))
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, event: str) -> dict[str, object]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found: dict[str, object] = json.loads(line)
            if found["event"] == event:
                return found
        raise AssertionError(f"{event} was not logged")

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "mesh.yaml"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_well(config: Path, number: signal.Signals) -> None:
    service = Process(config, server={"listen": "127.0.0.1:0", "announce_s": 0})
    service.wait_for("health.changed")

    service.process.send_signal(number)

    code, out, err = service.end()
    assert (code, out) == (0, "cleaned up\n")
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["process.stopping", "health.changed", "server.stopped"]


def test_a_second_signal_exits_at_once(config: Path) -> None:
    service = Process(config, server={"listen": "127.0.0.1:0", "announce_s": 600})
    service.wait_for("health.changed")

    service.process.send_signal(signal.SIGTERM)
    service.wait_for("process.stopping")
    service.process.send_signal(signal.SIGTERM)

    assert service.end()[:2] == (130, "")


def test_an_operators_word_drains_and_ends_well_as_a_signal_does(config: Path) -> None:
    service = Process(config, server={"listen": "127.0.0.1:0", "announce_s": 0}, ends="asked")

    code, out, err = service.end()
    assert (code, out) == (0, "cleaned up\n")
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events[-2:] == ["health.changed", "server.stopped"]


def test_a_service_that_dies_tells_its_supervisor(config: Path) -> None:
    service = Process(config, ends="the engine is gone")

    assert service.wait_for("process.died")["why"] == "the engine is gone"
    assert service.end()[:2] == (70, "cleaned up\n")


def test_a_service_that_cannot_start_says_why(config: Path) -> None:
    service = Process(config, ends="at start")

    assert service.wait_for("process.not_started")["why"] == "the port is taken"
    assert service.end()[0] == 3


def test_settings_that_this_machine_cannot_honour_are_not_tried_again(config: Path) -> None:
    service = Process(config, ends="too big")

    assert service.wait_for("process.not_started")["why"] == "router.model: 150 GiB too little"
    assert service.end()[0] == 2


def test_wrong_settings_are_told_with_their_path_before_anything_starts(config: Path) -> None:
    code, out, err = Process(config, port=1).end()

    assert (code, out) == (2, "")
    assert err == "spillway router: wrong settings\nrouter.port: unknown setting\n"
