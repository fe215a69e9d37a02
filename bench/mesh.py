"""What the router costs: CPU per call and per token, against a bare relay and the engine called directly."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.load import calls, percentile, streams
from bench.processes import Measured, started

ROUTER_PORT = 7970
CALLS, CALLERS, ROUNDS = 3000, 16, 5
PACED_STREAMS, PACED_WORDS, PACED_INTERVAL_MS = 128, 300, 10.0
FLAT_STREAMS, FLAT_WORDS, FLAT_INTERVAL_MS = 64, 6000, 0.25


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    load: str
    through: str
    cpu_us: float
    unit: str
    note: str


@contextmanager
def router(engine: str) -> Iterator[Measured]:
    """A router with everything on but validation, one target."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "spillway.yaml"
        address = f"127.0.0.1:{ROUTER_PORT}"
        target = {
            "name": "local",
            "kind": "local",
            "address": engine,
            "context_window": 100_000,
            "capabilities": ["text_input", "json_schema"],
            "price": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0},
        }
        ledger = {"url": f"sqlite:///{folder}/ledger.sqlite"}
        settings = {"server": {"listen": address}, "targets": [target], "ledger": ledger}
        config.write_text(yaml.safe_dump({"router": settings}))
        with started("services.router", "--config", str(config), address=address) as measured:
            yield measured


def unary() -> list[Row]:
    """CPU per unary call in the process between, interleaved over rounds."""
    with ExitStack() as stack:
        engine = stack.enter_context(started("bench.engine"))
        between = {
            "engine directly": engine,
            "bare relay": stack.enter_context(started("bench.relay", "--to", engine.address)),
            "router": stack.enter_context(router(engine.address)),
        }
        cpu: dict[str, list[float]] = {name: [] for name in between}
        rate: dict[str, list[float]] = {name: [] for name in between}
        for _ in range(ROUNDS):
            for name, process in between.items():
                before = process.cpu_s()
                wall = asyncio.run(calls(process.address, CALLS, CALLERS))
                cpu[name].append((process.cpu_s() - before) / CALLS * 1e6)
                rate[name].append(CALLS / wall)
    return [
        Row(f"unary, {CALLERS} callers", name, statistics.median(cpu[name]), "call", f"{statistics.median(rate[name]):.0f}/s")
        for name in between
    ]


def streaming(load: str, count: int, words: int, interval_ms: float, windows: tuple[int, ...]) -> Iterator[Row]:
    """CPU per token in the process between, for each merging window."""
    with ExitStack() as stack:
        engine = stack.enter_context(started("bench.engine", "--interval-ms", str(interval_ms)))
        between = {
            "engine directly": engine,
            "bare relay": stack.enter_context(started("bench.relay", "--to", engine.address)),
            "router": stack.enter_context(router(engine.address)),
        }
        for window_ms in windows:
            for name, process in between.items():
                before = process.cpu_s()
                seen = asyncio.run(streams(process.address, count, words, window_ms))
                used = process.cpu_s() - before
                note = (
                    f"{seen.tokens / max(1, seen.messages):.1f} tokens a message, gap p50 "
                    f"{percentile(seen.gaps, 0.5) * 1e3:.0f} p99 {percentile(seen.gaps, 0.99) * 1e3:.0f} ms, first token p50 "
                    f"{percentile(seen.first, 0.5) * 1e3:.0f} ms, {seen.tokens / seen.wall_s:.0f} tokens/s"
                )
                yield Row(f"{load}, merging {window_ms} ms", name, used / seen.tokens * 1e6, "token", note)


def run() -> Iterator[Row]:
    """All loads of the router."""
    windows = (0, 20, 40)
    yield from unary()
    yield from streaming(f"{PACED_STREAMS} streams x 100 tokens/s", PACED_STREAMS, PACED_WORDS, PACED_INTERVAL_MS, windows)
    yield from streaming(f"{FLAT_STREAMS} streams flat out", FLAT_STREAMS, FLAT_WORDS, FLAT_INTERVAL_MS, windows)
