"""What a provider's stream costs: the proxy's provider layer against the vendor's own SDK, one server, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from bench.dialects import CHUNKS, DIALECTS
from bench.processes import Measured, started
from bench.row import Row

ROUNDS = 5
LOADS: Mapping[str, tuple[float, int, int]] = {"a chunk each 5 ms": (5.0, 16, 16), "all at once": (0.0, 64, 4)}
"""Name -> milliseconds between chunks, streams in a round, streams at a time."""
NAMES = {"sdk": "the SDK", "ours": "provider layer", "merged": "merging 20 ms"}


def spent(process: Measured, url: str, count: int, at_once: int) -> float:
    """Return the CPU time of `process` per stream, in microseconds."""
    before = process.cpu_s()
    if process.ask(f"{url} {count} {at_once}") != "done":
        raise RuntimeError(f"{process.address} ended early")
    return (process.cpu_s() - before) / count * 1e6


def run() -> Iterator[Row]:
    """CPU per stream of CHUNKS chunks for every wire format, the median of rounds that take turns."""
    for kind, dialect in DIALECTS.items():
        for load, (interval_ms, count, at_once) in LOADS.items():
            with ExitStack() as stack:
                told = ("--kind", kind)
                server = stack.enter_context(started("bench.provider_server", *told, "--interval-ms", str(interval_ms)))
                ways = {by: stack.enter_context(started("bench.provider_client", *told, "--by", by)) for by in NAMES}
                url = f"http://{server.address}{dialect.base}"
                for process in ways.values():
                    spent(process, url, at_once, at_once)  # imports and the first connections are not a stream's
                rounds = [
                    {by: spent(process, url, count, at_once) for by, process in ways.items()} for _ in range(ROUNDS)
                ]
            for by, name in NAMES.items():
                cost = statistics.median(each[by] for each in rounds)
                share = statistics.median(each["sdk"] / each[by] for each in rounds)
                note = "" if by == "sdk" else f"{share:.1f} times less than the SDK"
                yield Row(f"{kind}, {CHUNKS} chunks, {load}", name, cost, "stream", note)
