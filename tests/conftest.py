"""Guards that every test runs under: nothing leaves this machine, nothing blocks the loop, nothing is left running."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # before gRPC is imported: it tells every channel's end

import grpc.aio
import opentelemetry.exporter.otlp.proto.grpc.trace_exporter  # noqa: F401 - else some test is the first, and importing it joins a thread
import pytest
import structlog
from blockbuster import blockbuster_ctx
from hypothesis import settings as hypothesis_settings

grpc.aio.init_grpc_aio()  # and never shut down: that joins a thread, in whichever test the last channel is collected

hypothesis_settings.register_profile("untimed", deadline=None)  # a busy machine is no reason for a test to fail
hypothesis_settings.load_profile("untimed")

HERE = Path(__file__).parent
SETTLE_S = 1.0
"""How long a task that is on its way out may take: gRPC ends some of its own after the call that used them."""

_left: list[str] = []
_LOCAL_NAMES = frozenset({"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})


def _watch_sockets(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else ""  # a path is a unix socket
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host is None or host in _LOCAL_NAMES or _is_loopback(str(host)):
        return
    _left.append(f"{event} {host}")
    raise ConnectionRefusedError(f"tests stay on this machine; refused: {event} {host}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


sys.addaudithook(_watch_sockets)  # sees every socket that Python opens, whichever library does it


@pytest.fixture(autouse=True)
def _nothing_leaves_this_machine() -> Iterator[None]:
    _left.clear()
    yield
    assert not _left, f"the test tried to leave this machine: {', '.join(_left)}"


@pytest.fixture
def logs_come_back() -> Iterator[None]:
    """For tests that run a command in this process: it silences the logs of its process, and this one goes on."""
    yield
    logging.disable(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _our_code_does_not_block_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Unit tests alone: elsewhere vLLM and child processes start inside the loop, and may take their time."""
    if not (_is_async(request) and request.node.path.is_relative_to(HERE / "unit")):
        yield
        return
    with blockbuster_ctx(["spillway", "services"]) as guard:
        # The last export of a process's spans waits for its thread, within the export timeout, when all else has ended.
        guard.functions["threading.Lock.acquire"].can_block_in("spillway/telemetry/tracing.py", {"close", "flush"})
        yield


@pytest.fixture(autouse=True)
def _no_task_outlives_its_test(request: pytest.FixtureRequest) -> None:
    if _is_async(request):
        request.getfixturevalue("_tasks_end")


@pytest.fixture
async def _tasks_end() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    running = asyncio.all_tasks() - before - {asyncio.current_task()}
    if running:
        _, running = await asyncio.wait(running, timeout=SETTLE_S)
    assert not running, f"left running: {', '.join(map(repr, running))}"


def _is_async(request: pytest.FixtureRequest) -> bool:
    return inspect.iscoroutinefunction(getattr(request.node, "function", None))
