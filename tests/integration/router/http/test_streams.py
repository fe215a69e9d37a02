"""Deltas of a stream reach callers of the edge past whoever would read them, and nothing of that shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from spillway import v1
from spillway.errors import TargetDown
from spillway.rpc.call import Call
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.waiting import eventually
from tests.integration.router.http.rig import MESSAGES, running_edge
from tests.integration.router.mesh import Mesh

CHAT = "/v1/chat/completions"
BODY: Any = {"model": "auto", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
WORDS = 300


class Said(FakeEngine):
    """Says as many words as it is told to in each step, and nothing before its router has passed those on."""

    at_once: int = 1
    cut: bool = False

    async def generate(self, request: Any, call: Call) -> AsyncGenerator[v1.GenerationEvent]:
        with self._counted():
            yield v1.GenerationEvent(started=v1.Started(model="small", prompt_tokens=2))
            for number in range(WORDS):
                delta = v1.Delta(text=f"w{number} ", tokens=1, reasoning="hm" if number == 100 else "")
                yield v1.GenerationEvent(sequence=number + 1, delta=delta)
                if number % self.at_once == 0:
                    await asyncio.sleep(0.001)
            if self.cut:
                raise TargetDown("cut")
            finish = v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP)
            yield v1.GenerationEvent(sequence=WORDS + 1, finished=v1.Finished(choices=[finish]))
            usage = v1.Usage(prompt_tokens=2, completion_tokens=WORDS)
            yield v1.GenerationEvent(sequence=WORDS + 2, usage=usage)


TEXT = "".join(f"w{number} " for number in range(WORDS))


@asynccontextmanager
async def asked(engine: Said, **body: Any) -> AsyncIterator[tuple[Mesh, Any]]:
    """A mesh before `engine`, and the response to a stream that was asked of it."""
    async with (
        running_edge(local=engine) as (mesh, _),
        ClientSession(f"http://{mesh.http}") as http,
        http.post(CHAT, json={**BODY, **body}) as response,
    ):
        yield mesh, response


def events(body: str) -> list[dict[str, Any]]:
    """All events but [DONE]."""
    return [json.loads(event.removeprefix("data: ")) for event in body.split("\n\n") if event.startswith("data: {")]


@pytest.mark.parametrize("at_once", [1, 20])
async def test_every_delta_is_a_chunk_in_order_and_all_of_it_is_accounted(at_once: int) -> None:
    engine = Said(model="small")
    engine.at_once = at_once
    async with asked(engine) as (mesh, response):
        body = await response.text()
        chunks = events(body)
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert [delta["content"] for delta in deltas[:-1]] == [f"w{number} " for number in range(WORDS)]
        assert [number for number, delta in enumerate(deltas) if "reasoning_content" in delta] == [100]
        assert [number for number, delta in enumerate(deltas) if "role" in delta] == [0]
        assert chunks[-1]["usage"]["completion_tokens"] == WORDS
        assert body.endswith("data: [DONE]\n\n")
        assert mesh.outcomes() == ["local:answered"]
        assert mesh.kept[0].record.completion_tokens == WORDS


async def test_what_comes_in_one_frame_is_one_write() -> None:
    engine = Said(model="small")
    engine.at_once = 20
    async with asked(engine) as (_, response):
        pieces = [piece async for piece, ends in response.content.iter_chunks() if ends]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events(b"".join(pieces).decode())[:-1])
    assert len(pieces) < WORDS / 4


async def test_the_error_of_a_stream_that_breaks_comes_after_all_that_was_said() -> None:
    engine = Said(model="small")
    engine.cut = True
    async with asked(engine) as (mesh, response):
        *chunks, error = events(await response.text())
        assert error["error"]["code"] == "stream_interrupted"
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == TEXT
        assert mesh.outcomes() == ["local:failed"]
        assert mesh.kept[0].record.completion_tokens == WORDS


async def test_a_caller_that_hangs_up_pays_for_what_was_said_and_the_target_stops() -> None:
    engine = Said(model="small")
    async with asked(engine) as (mesh, response):
        await response.content.readuntil(b'"w50 "')
        response.close()
        await eventually(lambda: engine.cancelled == 1 and not engine.running)
        await eventually(lambda: mesh.outcomes() == ["local:cancelled"])
        assert mesh.kept[0].record.completion_tokens >= 50


async def test_streams_side_by_side_keep_their_own_words() -> None:
    async with running_edge(local=Said(model="small")) as (mesh, _), ClientSession(f"http://{mesh.http}") as http:

        async def text() -> str:
            async with http.post(CHAT, json=BODY) as response:
                told = events(await response.text())
            assert len({chunk["id"] for chunk in told}) == 1
            return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in told[:-1])

        assert await asyncio.gather(*(text() for _ in range(16))) == [TEXT] * 16
