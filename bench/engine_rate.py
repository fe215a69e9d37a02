"""Tokens per second of the local engine over gRPC, against vLLM called in process with the same settings."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from bench.load import Streamed, engine_streams
from bench.processes import free_address, started
from bench.row import Rate

STREAMS, TOKENS, ROUNDS = 64, 256, 3


def run() -> Iterator[Rate]:
    """Both engines at once, asked in turns."""
    with tempfile.TemporaryDirectory() as folder:
        address = free_address()
        config = Path(folder) / "spillway.yaml"
        config.write_text(yaml.safe_dump({"local_engine": {"server": {"listen": address, "drain_s": 1}}}))
        with (
            started("bench.vllm_alone") as alone,
            started("services.local_engine", "--config", str(config), address=address) as service,
        ):
            direct: list[float] = []
            served: list[float] = []
            seen = Streamed()
            for counted in range(-1, ROUNDS):  # the first round warms both up
                seconds = float(alone.ask(f"streams {STREAMS} {TOKENS}"))
                seen = asyncio.run(engine_streams(service.address, STREAMS, TOKENS))
                if counted >= 0:
                    direct.append(STREAMS * TOKENS / seconds)
                    served.append(seen.tokens / seen.wall_s)
    load = f"{STREAMS} streams of {TOKENS} tokens, bundled model"
    ratios = [over / alone_ for over, alone_ in zip(served, direct, strict=True)]
    yield Rate(load, "AsyncLLM in process", statistics.median(direct))
    note = f"{statistics.median(ratios):.0%} of AsyncLLM, rounds {min(ratios):.0%} to {max(ratios):.0%}; {seen}"
    yield Rate(load, "local_engine over gRPC", statistics.median(served), note)
