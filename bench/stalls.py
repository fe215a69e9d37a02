"""Whether many streams run without a stall: their gaps, and how much of a core every process needs for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from bench import load, session_load
from bench.mesh import between
from bench.row import Gaps

STREAMS, TOKENS_PER_S, SECONDS = 512, 50, 10
STALL_S = 0.25
WAYS = {"session": session_load.streams, "StreamGenerate": load.streams}


def run() -> Iterator[Gaps]:
    """Through the router each way, nothing merged; engine and client are on this machine too."""
    with between(1000 / TOKENS_PER_S, stepped=True) as processes:
        router, engine = processes["router"], processes["engine directly"]
        for way, read in WAYS.items():
            before = engine.cpu_s(), router.cpu_s(), time.process_time()
            waited = engine.waited_s(), router.waited_s()
            seen = asyncio.run(read(router.address, STREAMS, TOKENS_PER_S * SECONDS, window_ms=0))
            after = engine.cpu_s(), router.cpu_s(), time.process_time()
            spent = [(late - early) / seen.wall_s for early, late in zip(before, after, strict=True)]
            late_s = f"{engine.waited_s() - waited[0]:.1f} and {router.waited_s() - waited[1]:.1f} s"
            yield Gaps(
                f"{STREAMS} streams x {TOKENS_PER_S} tokens/s",
                way,
                max(seen.gaps),
                sum(gap > STALL_S for gap in seen.gaps),
                dict(zip(("engine", "router", "client"), spent, strict=True)),
                f"engine and router were ready without a core for {late_s} of {seen.wall_s:.1f}; {seen}",
            )
