"""Many streams of the real vLLM, each cancelled at a random moment."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from spillway import v1

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn their own developers while they load
]

STREAMS, WITHIN_S = 100, 2.0
PROMPT = "Where is my parcel? It has not come."


def asked(words: str = PROMPT, tokens: int = 400) -> v1.GenerationSpec:
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=words)])])
    sampling = v1.Sampling(temperature=0, max_tokens=tokens)
    return v1.GenerationSpec(chat=chat, sampling=sampling, stop=v1.Stop(ignore_eos=True))


async def used_by_one(client: Any) -> float:
    """The share of the KV cache in use while one answer is made, as vLLM reports it."""
    async with client.stream(asked(), client.call()) as responses:
        async for response in responses:
            if response.event.HasField("delta"):
                break
        load = await client.load()
    assert load.running == 1
    return float(load.kv_cache_usage)


async def test_a_hundred_streams_cancelled_at_random_moments_leave_nothing_running_waiting_or_held(client: Any) -> None:
    chance = random.Random(7)
    await client.idle()
    alone = await used_by_one(client)
    await client.idle()
    before = await client.generate(asked(tokens=24))

    async def leave(number: int) -> None:
        async def read() -> None:
            await client.events(asked(f"{number}: {PROMPT}"))

        reading = asyncio.create_task(read())
        await asyncio.sleep(chance.uniform(0, WITHIN_S))
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled() or reading.exception() is None  # cancelled, or over before

    await asyncio.gather(*map(leave, range(STREAMS)))
    await client.idle()
    load = await client.load()
    assert (load.running, load.waiting, load.kv_cache_usage) == (0, 0, 0)
    assert await used_by_one(client) <= 2 * alone  # of its own blocks, not of those that were left
    await client.idle()
    assert (await client.generate(asked(tokens=24))).choices == before.choices
