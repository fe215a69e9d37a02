"""What the router costs by session: CPU per token and per call, beside its plain calls and bare relays, in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial

from bench import load, session_load
from bench.load import Streamed
from bench.mesh import PACED, PACED_INTERVAL_MS, between
from bench.row import Row
from bench.turns import Turns

WINDOWS_MS = (0, 20)
CALLS, CALLERS, ROUNDS = 3200, 64, 5
READ = {
    "engine, session": ("engine directly", session_load.streams),
    "relay, session": ("bare session relay", session_load.streams),
    "router, session": ("router", session_load.streams),
    "router": ("router", load.streams),
    "bare relay": ("bare relay", load.streams),
}
"""Name -> the process that is asked for streams, and how."""
CALL: dict[str, tuple[str, Callable[[str, int, int], Coroutine[None, None, Streamed]]]] = {
    "engine, session": ("engine directly", partial(session_load.calls, batched=False)),
    "relay, session": ("bare session relay", partial(session_load.calls, batched=False)),
    "relay, batched": ("bare session relay", partial(session_load.calls, batched=True)),
    "router, session": ("router", partial(session_load.calls, batched=False)),
    "router, batched": ("router", partial(session_load.calls, batched=True)),
    "router": ("router", partial(load.calls, words=1)),
    "bare relay": ("bare relay", partial(load.calls, words=1)),
}
"""Name -> the process that is called, and how."""


def tokens(rounds: int = 3) -> Iterator[Row]:
    """CPU per paced token for each merging window."""
    with between(PACED_INTERVAL_MS, stepped=True) as processes:
        for window_ms in WINDOWS_MS:
            turns = Turns(processes)
            seen: dict[str, Streamed] = {}

            def read(name: str, window_ms: int = window_ms, seen: dict[str, Streamed] = seen) -> int:
                process, streams = READ[name]
                seen[name] = asyncio.run(streams(processes[process].address, window_ms=window_ms, **PACED))
                return seen[name].tokens

            for _ in range(rounds):
                for name in READ:
                    turns.take(name, partial(read, name))
            through = {name: process for name, (process, _) in READ.items()}
            label = f"{PACED['count']} streams x 100 tokens/s, merging {window_ms} ms"
            yield from turns.rows(label, "token", through, {name: str(each) for name, each in seen.items()})


def calls() -> Iterator[Row]:
    """CPU per call of one token, one by one and with starts that share a frame."""
    with between(0.0) as processes:
        turns = Turns(processes)
        rate: dict[str, float] = {}

        def call(name: str) -> int:
            process, make = CALL[name]
            rate[name] = CALLS / asyncio.run(make(processes[process].address, CALLS, CALLERS)).wall_s
            return CALLS

        for _ in range(ROUNDS):
            for name in CALL:
                turns.take(name, partial(call, name))
        through = {name: process for name, (process, _) in CALL.items()}
        notes = {name: f"{each:.0f} calls/s" for name, each in rate.items()}
        yield from turns.rows(f"calls of one token, {CALLERS} callers", "call", through, notes)


def run() -> Iterator[Row]:
    """Tokens, then calls."""
    yield from tokens()
    yield from calls()
