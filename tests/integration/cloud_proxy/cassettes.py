"""Recorded exchanges with providers, served again over real HTTP, their bodies cut anywhere.

The recordings are others' and never copied in here: they are read where SPILLWAY_DATA names them, as it does in CI.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.cloud_proxy.http_provider import HttpProvider
from services.cloud_proxy.provider import Exchange, Wire
from services.cloud_proxy.settings import ProviderSettings
from spillway import v1
from spillway.generation import merge_delta
from tests.integration.cloud_proxy.rig import call, keyring, spec

DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere")) / "cassettes" / "wire.jsonl"
RECORDED = pytest.mark.skipif(not DATA.exists(), reason="SPILLWAY_DATA names no folder with cassettes")
CUTTINGS = 200
"""In how many ways each body is cut."""
PIECES = 40

Row = dict[str, Any]


def rows(wanted: Callable[[Row], bool]) -> list[Any]:
    """The recordings that are `wanted`, as parameters of a test; one that is skipped where there are none to read."""
    if not DATA.exists():
        return [pytest.param(None, marks=RECORDED)]
    found = [json.loads(line) for line in DATA.read_text().splitlines()]
    return [pytest.param(row, id=row["id"]) for row in found if wanted(row)]


def answered(*parts: str) -> Callable[[Row], bool]:
    """Those of a URL with any of `parts` that were answered 200."""
    return lambda row: row["status"] == 200 and any(part in row["request"]["url"] for part in parts)


def refused(*parts: str) -> Callable[[Row], bool]:
    """Those of a URL with any of `parts` that were not answered 200."""
    return lambda row: row["status"] != 200 and any(part in row["request"]["url"] for part in parts)


@dataclass(slots=True)
class Cassette:
    """A server that answers every request with one recording, over connections that stay open."""

    row: Row
    port: int = 0
    cuts: random.Random | None = None
    """Cut the body at places it draws; None: it comes whole."""
    asked: list[bytes] = field(default_factory=list)
    """Head and body of every request."""

    def pieces(self) -> Sequence[bytes]:
        """The body, cut."""
        body = self.row["response"]["body"].encode()
        places = sorted(self.cuts.sample(range(1, len(body)), min(PIECES, len(body) - 1))) if self.cuts else []
        return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        headers = {name.lower(): value for name, value in self.row["response"]["headers"].items()}
        kept = "".join(
            f"{name}: {value}\r\n"
            for name, value in headers.items()
            if name not in ("content-length", "transfer-encoding", "content-encoding", "connection", "set-cookie")
        )
        head = f"HTTP/1.1 {self.row['status']} x\r\n{kept}transfer-encoding: chunked\r\n\r\n".encode()
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                size = int(asked.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                self.asked.append(asked + await reader.readexactly(size))
                writer.write(head)
                for piece in self.pieces():
                    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()


@dataclass(frozen=True, slots=True)
class Played:
    """What a provider made of a recording: every choice's deltas folded into one."""

    choices: tuple[v1.Delta, ...]
    exchange: Exchange

    @property
    def facts(self) -> object:
        """All that must not depend on how the bytes were cut."""
        exchange = self.exchange
        return self.choices, exchange.usage, exchange.finishes, exchange.model, exchange.said_bytes


@dataclass(slots=True)
class Player:
    """One provider before one recording."""

    cassette: Cassette
    provider: HttpProvider

    async def play(
        self, cuts: random.Random | None = None, *, asked: v1.GenerationSpec | None = None, model: str = "m"
    ) -> Played:
        """Ask once. Raises SpillwayError as the provider does."""
        self.cassette.cuts = cuts
        exchange, choices = Exchange(), dict[int, v1.Delta]()
        prepared = self.provider.prepare(asked or spec(), model)
        async for deltas in self.provider.stream(prepared, call(), exchange):
            for delta in deltas:
                merge_delta(choices.setdefault(delta.choice, v1.Delta(choice=delta.choice)), delta)
        return Played(tuple(choices[index] for index in sorted(choices)), exchange)

    async def require_same_however_cut(self) -> Played:
        """Ask with the body whole and cut in CUTTINGS ways; return what it is each time."""
        whole = await self.play()
        for seed in range(CUTTINGS):
            again = await self.play(random.Random(seed))
            assert again.facts == whole.facts, f"seed {seed}"
        return whole


@asynccontextmanager
async def playing(row: Row, wire: Callable[[ProviderSettings], Wire], kind: str, **more: Any) -> AsyncIterator[Player]:
    """Serve `row` to a provider of the wire format `kind`."""
    cassette = Cassette(row)
    server = await asyncio.start_server(cassette.answer, "127.0.0.1", 0)
    async with server:
        cassette.port = server.sockets[0].getsockname()[1]
        settings = ProviderSettings.model_validate(
            {
                "name": "recorded",
                "kind": kind,
                "region": "us",
                "base_url": f"http://127.0.0.1:{cassette.port}/v1",
                "models": [{"name": "m"}],
                **more,
            }
        )
        provider = HttpProvider(settings, wire(settings), keyring("sk-recorded"))
        try:
            yield Player(cassette, provider)
        finally:
            await provider.close()
