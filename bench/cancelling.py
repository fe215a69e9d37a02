"""How soon a cancel frees the engine: over gRPC and through the router, against an abort in process.

Every engine has one seat. A request waits for it while another, endless one sits there; that one is cancelled, and the
time until the waiting one's first token is measured: nothing but the engine's core can make it fall.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import yaml

from bench.load import cancel
from bench.mesh import router
from bench.processes import free_address, started
from bench.row import Wait

ROUNDS = 20


def run() -> Iterator[Wait]:
    """All three, taking turns."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        address = free_address()
        config = Path(folder) / "spillway.yaml"
        section = {"server": {"listen": address, "drain_s": 1}, "vllm": {"max_num_seqs": 1}}
        config.write_text(yaml.safe_dump({"local_engine": section}))
        alone = stack.enter_context(started("bench.vllm_alone", "--max-num-seqs", "1"))
        stack.enter_context(started("services.local_engine", "--config", str(config), address=address))
        routed = stack.enter_context(router(address)).address
        ways: dict[str, Callable[[], float]] = {
            "abort in process": lambda: float(alone.ask("cancel")),
            "local_engine over gRPC": lambda: asyncio.run(cancel(address)),
            "router and local_engine": lambda: asyncio.run(cancel(routed)),
        }
        for way in ways.values():  # the first round warms up
            way()
        seconds = {name: list[float]() for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                seconds[name].append(way())
    bare = statistics.median(seconds["abort in process"])
    for name, found in seconds.items():
        yield Wait("cancel frees the engine's only seat", name, statistics.median(found), bare, max(found))
