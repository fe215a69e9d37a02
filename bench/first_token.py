"""What the router adds to the time to a first token, by session and plainly, in turns with a bare gRPC round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial

from bench import load, session_load
from bench.load import Streamed, percentile
from bench.mesh import between
from bench.processes import started
from bench.row import Added

CALLERS, CALLS, ROUNDS = (1, 16), 400, 5
WAYS: dict[str, Callable[[str, int, int], Coroutine[None, None, Streamed]]] = {
    "session": partial(session_load.calls, batched=False),
    "StreamGenerate": load.short_streams,
}


def run() -> Iterator[Added]:
    """One caller, then several; the engine answers at once."""
    with between(0.0) as processes, started("bench.collector") as bare:
        for callers in CALLERS:
            trips: list[float] = []
            first: dict[tuple[str, str], list[float]] = {}
            for _ in range(ROUNDS):
                trips += asyncio.run(load.round_trips(bare.address, CALLS, callers))[callers:]
                for way, make in WAYS.items():
                    for process in ("engine directly", "router"):
                        seen = asyncio.run(make(processes[process].address, CALLS, callers))
                        first.setdefault((way, process), []).extend(seen.first[callers:])  # the channel is there
            for way in WAYS:
                yield Added(
                    f"first token, {callers} callers",
                    way,
                    percentile(first[way, "router"], 0.5) - percentile(first[way, "engine directly"], 0.5),
                    percentile(first[way, "router"], 0.99) - percentile(first[way, "engine directly"], 0.99),
                    percentile(trips, 0.5),
                )
