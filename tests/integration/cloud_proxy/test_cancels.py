"""A thousand streams through the whole proxy, left at random moments: nothing leaks, everything is accounted once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from structlog.testing import capture_logs

from services.cloud_proxy.limits import tokens_of
from services.cloud_proxy.proxy import prompt_estimate
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.waiting import eventually
from tests.integration.cloud_proxy.rig import Rig, connected, running, spec

STREAMS, AT_ONCE = 1000, 50
WORDS, INTERVAL_S = 12, 0.004
MOMENTS = ("at once", "before the headers", "at the first token", "within", "at the end", "never")


async def left(rig: Rig, chance: random.Random) -> str:
    """Ask once, and leave at a moment that `chance` chooses; return which it was."""
    moment = chance.choice(MOMENTS)
    if moment in ("at once", "before the headers"):
        asked = asyncio.create_task(rig.stream(spec()))
        await asyncio.sleep(0 if moment == "at once" else chance.uniform(0, 0.02))
        asked.cancel()
        await asyncio.wait([asked])
        return moment
    stop_after = {"at the first token": 1, "within": chance.randint(2, WORDS), "at the end": WORDS + 1}.get(moment)
    said = 0
    async with aclosing(rig.events(spec())) as events:
        async for event in events:
            said += event.HasField("delta")
            if said == stop_after or (moment == "at the end" and event.HasField("finished")):
                break
    return moment


async def test_a_thousand_streams_that_are_left_at_random_leak_nothing_and_are_accounted_once(valkey: str) -> None:
    chance, moments = random.Random(5), Counter[str]()
    simulator = OpenAISimulator(answer=lambda body: " word" * WORDS, first_s=0.005, interval_s=INTERVAL_S)
    async with serving_openai(simulator) as url:
        port = urlsplit(url).port or 0
        with capture_logs() as logs:
            async with running(simulator, valkey, url=url, max_connections=AT_ONCE) as rig:

                async def leaving(count: int) -> None:
                    for _ in range(count):
                        moments[await left(rig, chance)] += 1

                await asyncio.gather(*(leaving(STREAMS // AT_ONCE) for _ in range(AT_ONCE)))
                await eventually(lambda: rig.provider.connections == simulator.running == 0)
                assert (await rig.stream(spec())).usage.completion_tokens == WORDS
                assert len(list(connected(port))) <= AT_ONCE  # spare ones, for the next calls
                requests, tokens = await rig.used()
                await rig.provider.close()
                await eventually(lambda: not list(connected(port)))
                spans = rig.spans("provider.request")
        assert set(moments) == set(MOMENTS)
        assert all(seen.finished != (seen.disconnected_at is not None) for seen in simulator.seen)
    told = [entry for entry in logs if entry["event"] == "provider.request"]
    answered = [entry for entry in told if entry["status"] == 200]
    assert len(spans) == len(told)
    assert len(simulator.seen) <= requests <= len(told) <= STREAMS + 1
    assert {entry["outcome"] for entry in told} == {"ANSWERED", "CANCELLED"}
    # What is reserved and not settled would stand beside what was used: 1024 tokens for every such call.
    prompt = prompt_estimate(spec())
    assert tokens == sum(used(entry, prompt) for entry in answered) + (requests - len(answered)) * prompt


def used(entry: Mapping[str, Any], prompt: int) -> int:
    """Tokens that a call counts for: those told of a whole answer, else no less than the words that came."""
    asked = prompt if entry["prompt_tokens"] is None else int(entry["prompt_tokens"])
    if entry["outcome"] == "ANSWERED":
        return asked + int(entry["completion_tokens"])
    return asked + max(entry["completion_tokens"] or 0, tokens_of(entry["said_bytes"]))
