"""Cloud proxies killed at random, a store that comes and goes: what reached the provider is on record, each once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from spillway.audit import INTENT, STREAM, UNKNOWN, Record, folded, read
from spillway.errors import SpillwayError
from spillway.rpc.remote import Remote
from spillway.store.embedded import embedded_valkey
from spillway.telemetry.tracing import Tracing
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from tests.integration.cloud_proxy.relay import Relay, relayed
from tests.integration.cloud_proxy.rig import Caller, declared, spec
from tests.integration.processes import started

pytestmark = pytest.mark.chaos

ROUNDS = 5
CALLERS = 8


async def disturb(relay: Relay, rng: random.Random) -> None:
    """Cut the way to the store, and mend it, for ever."""
    while True:
        await asyncio.sleep(rng.random() * 0.4)
        relay.mute()
        await asyncio.sleep(rng.random() * 0.2)
        await relay.down()
        await asyncio.sleep(rng.random() * 0.4)
        await relay.up()


async def keep_asking(caller: Caller) -> None:
    while True:
        await caller.generate(spec(), seconds=5)


async def until_killed(section: dict[str, Any], config: Path, rng: random.Random) -> None:
    async with started("cloud_proxy", section, config) as (address, process):
        remotes = [Remote(address, tracing=Tracing("test"), name=f"{config.stem}-{at}") for at in range(CALLERS)]
        work = [asyncio.create_task(keep_asking(Caller(remote))) for remote in remotes]
        await asyncio.sleep(0.5 + rng.random())
        process.kill()
        await process.wait()
        for found in await asyncio.gather(*work, return_exceptions=True):
            assert isinstance(found, SpillwayError)
        for remote in remotes:
            await remote.close()


async def caught_up(url: str, section: dict[str, Any], config: Path) -> list[Record]:
    """All records, once a proxy has come up with a good store and its own record is there."""
    redis = Redis.from_url(url)
    async with started("cloud_proxy", section, config) as (address, _):
        remote = Remote(address, tracing=Tracing("test"), name=config.stem)
        await Caller(remote).generate(spec())
        found: list[Record] = []
        last: bytes = b"0"
        async with asyncio.timeout(60):
            while not found or len({each["proxy"] for each in found}) <= ROUNDS or found[-1]["phase"] == INTENT:
                told: Any = await redis.xread({STREAM: last}, block=0)
                for _, entries in told:
                    found += read(entries)
                    last = entries[-1][0]
        await remote.close()
    await redis.aclose()
    return found


async def test_whatever_reached_the_provider_is_on_record_once_however_proxies_are_killed(tmp_path: Path) -> None:
    rng, simulator = random.Random(5), OpenAISimulator()
    async with embedded_valkey() as url, relayed(url, tmp_path) as relay, serving_openai(simulator) as base:
        section: dict[str, Any] = {
            "store": {"url": relay.url},
            "providers": [declared(base)],
            "audit": {"folder": str(tmp_path / "spool")},
        }
        storm = asyncio.create_task(disturb(relay, rng))
        for at in range(ROUNDS):
            await until_killed(section, tmp_path / f"proxy{at}.yaml", rng)
        storm.cancel()
        with suppress(asyncio.CancelledError):
            await storm
        section["store"] = {"url": url}
        records = await caught_up(url, section, tmp_path / "last.yaml")
    once = Counter((each["id"], each["phase"]) for each in records)
    assert set(once.values()) == {1}
    calls = folded(records)
    left = [each for each in calls if each["left"]]
    assert len(left) >= len(simulator.seen) > ROUNDS
    assert 0 < sum(each["outcome"] == UNKNOWN for each in left) <= ROUNDS * CALLERS
    seen: dict[str, None] = {}
    for each in records:  # in order: no outcome before its intent
        if each["phase"] == INTENT:
            seen[each["id"]] = None
        elif each["left"]:
            assert each["id"] in seen
