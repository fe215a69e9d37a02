"""What the router costs: CPU per call and per token, against a bare relay and the engine called directly."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from bench.load import Streamed, calls, streams
from bench.processes import Measured, free_address, started
from bench.row import Row

CALLS, CALLERS, ROUNDS = 3000, 16, 5
WINDOWS_MS = (0, 20, 40)
PACED = {"count": 128, "words": 400}
PACED_INTERVAL_MS = 10.0
FLAT = {"count": 64, "words": 6000}
FLAT_INTERVAL_MS = 0.25
PLAIN = ("engine directly", "bare relay", "router")
"""Who is called without a session."""


@contextmanager
def router(engine: str, collector: str | None = None, *, probed: bool = False, workers: int = 1) -> Iterator[Measured]:
    """A router of so many workers with everything on but cache and validation, before one target.

    Metrics, and one trace in a hundred, go to `collector`. One that is `probed` can be asked what it holds.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = free_address()
        target = {
            "name": "local",
            "kind": "local",
            "address": engine,
            "context_window": 100_000,
            "capabilities": ["text_input", "token_input", "json_schema"],
            "price": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0},
        }
        ledger = {"url": f"sqlite:///{folder}/ledger.sqlite"}
        section = {"server": {"listen": address}, "workers": workers, "targets": [target], "ledger": ledger}
        if collector is not None:
            telemetry = {"otlp_endpoint": f"http://{collector}", "sample_ratio": 0.01, "metrics_listen": "127.0.0.1:0"}
            section["telemetry"] = telemetry
        config = Path(folder) / "spillway.yaml"
        config.write_text(yaml.safe_dump({"router": section}))
        module = ["bench.probed", "services.router"] if probed else ["services.router"]
        with started(*module, "--config", str(config), address=address) as measured:
            yield measured


@contextmanager
def between(interval_ms: float, *, stepped: bool = False, probed: bool = False) -> Iterator[dict[str, Measured]]:
    """A fake engine, and before it a router and bare relays; of a `stepped` engine all tokens come at once."""
    pace = ["--interval-ms", str(interval_ms), *["--stepped"] * stepped]
    with ExitStack() as stack:
        engine = stack.enter_context(started("bench.engine", *pace))
        relay = stack.enter_context(started("bench.relay", "--to", engine.address))
        frames = stack.enter_context(started("bench.session_relay", "--to", engine.address))
        collector = stack.enter_context(started("bench.collector"))
        before = stack.enter_context(router(engine.address, collector.address, probed=probed))
        yield {"engine directly": engine, "bare relay": relay, "bare session relay": frames, "router": before}


def unary() -> Iterator[Row]:
    """CPU per unary call, the median of rounds that take turns."""
    with between(0.0) as mesh:
        processes = {name: mesh[name] for name in PLAIN}
        cpu: dict[str, list[float]] = {name: [] for name in processes}
        rate: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(ROUNDS):
            for name, process in processes.items():
                before = process.cpu_s()
                wall_s = asyncio.run(calls(process.address, CALLS, CALLERS)).wall_s
                cpu[name].append((process.cpu_s() - before) / CALLS * 1e6)
                rate[name].append(CALLS / wall_s)
    for name in processes:
        note = f"{statistics.median(rate[name]):.0f} calls/s"
        yield Row(f"unary, {CALLERS} callers", name, statistics.median(cpu[name]), "call", note)


def streaming(load: str, interval_ms: float, size: dict[str, int], rounds: int = 3) -> Iterator[Row]:
    """CPU per token for each merging window, the median of rounds that take turns."""
    with between(interval_ms) as mesh:
        processes = {name: mesh[name] for name in PLAIN}
        for window_ms in WINDOWS_MS:
            cpu: dict[str, list[float]] = {name: [] for name in processes}
            seen: dict[str, Streamed] = {}
            for _ in range(rounds):
                for name, process in processes.items():
                    before = process.cpu_s()
                    seen[name] = asyncio.run(streams(process.address, window_ms=window_ms, **size))
                    cpu[name].append((process.cpu_s() - before) / seen[name].tokens * 1e6)
            for name in processes:
                label = f"{load}, merging {window_ms} ms"
                yield Row(label, name, statistics.median(cpu[name]), "token", str(seen[name]))


def run() -> Iterator[Row]:
    """All loads of the router."""
    yield from unary()
    yield from streaming(f"{PACED['count']} streams x 100 tokens/s", PACED_INTERVAL_MS, PACED)
    yield from streaming(f"{FLAT['count']} streams flat out", FLAT_INTERVAL_MS, FLAT)
