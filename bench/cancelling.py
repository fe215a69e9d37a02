"""How soon a cancel frees the engine: over gRPC and through the router, against an abort in process.

Every engine has one seat. A request waits for it while another, endless one sits there; that one is cancelled, and the
time until the waiting one's first token is measured: nothing but the engine's core can make it fall.

Then the streams of a crowd are cancelled, each at a random moment, and the time is taken from the last cancel until the
engine says that nothing runs, waits or holds blocks, and has served the next request.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from bench.load import CROWD, cancel, cancels
from bench.mesh import router
from bench.processes import Measured, free_address, started
from bench.row import Wait

ROUNDS, CROWD_ROUNDS = 20, 7
SEATS = 64
"""Fewer than the streams of a crowd: some wait when they are cancelled."""


def run() -> Iterator[Wait]:
    """One stream, then a crowd."""
    yield from one()
    yield from crowd()


def one() -> Iterator[Wait]:
    """All three ways, taking turns."""
    with engines(1) as (alone, address), router(address) as before:
        ways: dict[str, Callable[[], float]] = {
            "abort in process": lambda: float(alone.ask("cancel")),
            "local_engine over gRPC": lambda: asyncio.run(cancel(address)),
            "router and local_engine": lambda: asyncio.run(cancel(before.address)),
        }
        for way in ways.values():  # the first round warms up
            way()
        yield from _turns("cancel frees the engine's only seat", ways, ROUNDS)


def crowd() -> Iterator[Wait]:
    """The engine, and vLLM alone, at the same random moments."""
    with engines(SEATS) as (alone, address):
        seeds = {"alone": itertools.count(), "engine": itertools.count()}
        ways: dict[str, Callable[[], float]] = {
            "abort in process": lambda: float(alone.ask(f"cancels {next(seeds['alone'])}")),
            "local_engine over gRPC": lambda: asyncio.run(cancels(address, next(seeds["engine"]))),
        }
        for way in ways.values():
            way()
        yield from _turns(f"{CROWD} cancels at random moments, all free", ways, CROWD_ROUNDS)


@contextmanager
def engines(seats: int) -> Iterator[tuple[Measured, str]]:
    """vLLM alone, and a local engine with its address, of so many seats."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        address = free_address()
        config = Path(folder) / "spillway.yaml"
        section = {"server": {"listen": address, "drain_s": 1}, "vllm": {"max_num_seqs": seats}}
        config.write_text(yaml.safe_dump({"local_engine": section}))
        alone = stack.enter_context(started("bench.vllm_alone", "--max-num-seqs", str(seats)))
        stack.enter_context(started("services.local_engine", "--config", str(config), address=address))
        yield alone, address


def _turns(load: str, ways: Mapping[str, Callable[[], float]], rounds: int) -> Iterator[Wait]:
    seconds = {name: list[float]() for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    bare = statistics.median(seconds["abort in process"])
    for name, found in seconds.items():
        yield Wait(load, name, statistics.median(found), bare, max(found))
