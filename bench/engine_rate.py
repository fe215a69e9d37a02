"""Tokens per second of the local engine over gRPC, against the same vLLM called in process and served over HTTP."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from bench.http_load import http_streams
from bench.load import Streamed, engine_streams, percentile
from bench.processes import free_address, started
from bench.row import Rate

STREAMS, TOKENS, ROUNDS = 64, 256, 3


def run() -> Iterator[Rate]:
    """All engines at once, asked in turns."""
    with tempfile.TemporaryDirectory() as folder:
        address, plain, web = free_address(), free_address(), free_address()
        sections = {address: {}, plain: {"merge_window_ms": 0, "messages_per_s": 1e9}}
        configs = {}
        for at, section in sections.items():
            configs[at] = Path(folder) / f"{at}.yaml"
            server = {"server": {"listen": at, "drain_s": 1}}
            configs[at].write_text(yaml.safe_dump({"local_engine": {**server, **section}}))
        with (
            started("bench.vllm_alone") as alone,
            started("services.local_engine", "--config", str(configs[address]), address=address),
            started("services.local_engine", "--config", str(configs[plain]), address=plain),
            started("bench.vllm_serve", "--address", web, address=web, http=True),
        ):
            rates: dict[str, list[float]] = {"AsyncLLM in process": []}
            seen: dict[str, list[Streamed]] = {}
            for counted in range(-1, ROUNDS):  # the first round warms all up
                seconds = float(alone.ask(f"streams {STREAMS} {TOKENS}"))
                found = {
                    "local_engine over gRPC": asyncio.run(engine_streams(address, STREAMS, TOKENS)),
                    "the same, nothing merged": asyncio.run(engine_streams(plain, STREAMS, TOKENS)),
                    "vllm serve over HTTP": asyncio.run(http_streams(web, "bundled", STREAMS, TOKENS)),
                }
                if counted >= 0:
                    rates["AsyncLLM in process"].append(STREAMS * TOKENS / seconds)
                    for name, each in found.items():
                        rates.setdefault(name, []).append(each.tokens / each.wall_s)
                        seen.setdefault(name, []).append(each)
    load = f"{STREAMS} streams of {TOKENS} tokens, bundled model"
    direct, web_rate = rates["AsyncLLM in process"], rates["vllm serve over HTTP"]
    for name, found_rates in rates.items():
        shares = [
            f"{statistics.median(a / b for a, b in zip(found_rates, other, strict=True)):.0%} of {what}"
            for what, other in (("AsyncLLM", direct), ("vllm serve", web_rate))
        ]
        times = [
            f"{what} p50 {statistics.median(percentile(getattr(each, kind), 0.5) for each in rounds) * 1e3:.0f} "
            f"p99 {statistics.median(percentile(getattr(each, kind), 0.99) for each in rounds) * 1e3:.0f} ms"
            for rounds in [seen.get(name, [])]
            if rounds
            for what, kind in (("first token", "first"), ("gap", "gaps"))
        ]
        yield Rate(load, name, statistics.median(found_rates), ", ".join([*shares, *times]))
