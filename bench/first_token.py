"""What router and bare relays add to the time to a first token, by session and plainly, beside a bare round trip."""

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
WAYS: dict[str, tuple[str, Callable[[str, int, int], Coroutine[None, None, Streamed]]]] = {
    "session": ("bare session relay", partial(session_load.calls, batched=False)),
    "StreamGenerate": ("bare relay", load.short_streams),
}
"""Name -> the relay beside the router, and how both are called."""


def run() -> Iterator[Added]:
    """One caller, then several; the engine answers at once."""
    with between(0.0) as processes, started("bench.collector") as bare:
        for callers in CALLERS:
            trips: list[float] = []
            first: dict[tuple[str, str], list[float]] = {}
            for _ in range(ROUNDS):
                trips += asyncio.run(load.round_trips(bare.address, CALLS, callers))[callers:]
                for way, (relay, make) in WAYS.items():
                    for process in ("engine directly", relay, "router"):
                        seen = asyncio.run(make(processes[process].address, CALLS, callers))
                        first.setdefault((way, process), []).extend(seen.first[callers:])  # the channel is there
            for way, (relay, _) in WAYS.items():
                for process in (relay, "router"):
                    p50, p99 = (
                        percentile(first[way, process], share) - percentile(first[way, "engine directly"], share)
                        for share in (0.5, 0.99)
                    )
                    yield Added(
                        f"first token, {callers} callers", f"{process}, {way}", p50, p99, percentile(trips, 0.5)
                    )
