"""Connections of callers: who leaves or takes nothing leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.router.http.connection import Connection
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from tests.integration.router.http.rig import MESSAGES, running_edge
from tests.integration.router.mesh import Mesh

BODY: Any = {"model": "auto", "messages": MESSAGES}
STREAM = {"stream": True}


@dataclass
class Seen:
    """Connections that were made, in order, and how many of them are lost."""

    made: list[weakref.ref[Connection]] = field(default_factory=list)
    lost: int = 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()

    class Watched(Connection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            found.made.append(weakref.ref(self))

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            found.lost += 1

    monkeypatch.setattr("services.router.http.listener.Connection", Watched)
    return found


@asynccontextmanager
async def asked(mesh: Mesh, *bodies: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
    """What is answered to requests that are sent at once over one connection; it ends with the block."""
    host, _, port = mesh.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for body in bodies:
            told = json.dumps({**BODY, **body}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(told)}\r\n\r\n".encode()
            writer.write(head + told)
        yield reader
    finally:
        writer.close()


async def test_a_connection_that_has_ended_needs_no_garbage_collector(seen: Seen) -> None:
    async with running_edge() as (mesh, _):
        gc.collect()
        gc.disable()
        try:
            async with asked(mesh, STREAM) as reader:
                await reader.readuntil(b"0\r\n\r\n")
            await eventually(lambda: [connection() for connection in seen.made] == [None])
        finally:
            gc.enable()


async def test_nothing_waits_for_a_reader_that_was_cut_off(seen: Seen) -> None:
    server = LOOPBACK.model_copy(update={"write_stall_s": 0.3})
    async with running_edge(server=server) as (mesh, _):
        mesh.local.answer = lambda spec: ("x" * 5000 + " ") * 4000
        async with asked(mesh, STREAM):
            await eventually(lambda: mesh.local.cancelled == 1)
            await eventually(lambda: seen.lost == 1)


async def test_who_asks_ahead_and_leaves_is_answered_no_further() -> None:
    engine = FakeEngine(model="small", answer=lambda spec: "word " * 10_000, interval_s=0.001)
    async with running_edge(local=engine) as (mesh, _):
        async with asked(mesh, STREAM, STREAM) as reader:
            await reader.readuntil(b"word")
        await eventually(lambda: engine.cancelled == 1 and not engine.running)
        assert mesh.outcomes() == ["local:cancelled"]


@pytest.mark.parametrize("body", [{}, STREAM, {"model": "nobody's"}])
async def test_nothing_waits_for_a_reader_that_asks_on_and_takes_no_answer(seen: Seen, body: dict[str, Any]) -> None:
    server = LOOPBACK.model_copy(update={"default_deadline_s": 1.0, "write_stall_s": 0.3})
    async with running_edge(server=server) as (mesh, _):
        mesh.local.answer = lambda spec: "x" * 14_000_000
        async with asked(mesh, {}, body):
            await eventually(lambda: seen.lost == 1)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone gives up such a reader")
async def test_nothing_waits_for_a_reader_that_does_not_take_its_answer(seen: Seen) -> None:
    server = LOOPBACK.model_copy(update={"write_stall_s": 0.3})
    async with running_edge(server=server) as (mesh, _):
        mesh.local.answer = lambda spec: "x" * 14_000_000
        async with asked(mesh, {}):
            await eventually(lambda: mesh.outcomes() == ["local:answered"])
            await eventually(lambda: seen.lost == 1)
