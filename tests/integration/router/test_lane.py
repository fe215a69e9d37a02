"""Deltas of a session pass the router unread, and nothing of that shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from spillway import v1
from spillway.errors import StreamInterrupted, TargetDown
from spillway.rpc.call import Call
from spillway.rpc.methods import SESSION
from spillway.testing.fake_engine import FakeEngine
from tests.integration.router.mesh import running_mesh, text

WORDS = 400
ANSWER = " ".join(f"w{number}" for number in range(WORDS))


async def slowly(remote: Any, numbers: range) -> dict[int, list[v1.GenerationEvent]]:
    """Read generations of a session, each of which is given credit for one event at a time."""
    rpc = remote.channel.stream_stream(
        SESSION,
        request_serializer=v1.SessionRequest.SerializeToString,
        response_deserializer=v1.SessionResponse.FromString,
    )()
    request = v1.StreamGenerateRequest(spec=text())
    starts = [v1.SessionStart(id=number, request=request, credit=1, deadline_ms=60_000) for number in numbers]
    await rpc.write(v1.SessionRequest(starts=starts))
    told: dict[int, list[v1.GenerationEvent]] = {number: [] for number in numbers}
    running = set(numbers)
    while running:
        frame = await rpc.read()
        for number, event in zip(frame.ids, frame.events, strict=True):
            told[number].append(event)
        for ended in frame.ended:
            assert not ended.status
            running.discard(ended.id)
        credits = [v1.SessionCredit(id=number, events=1) for number in frame.ids]
        await rpc.write(v1.SessionRequest(credits=credits))
    await rpc.done_writing()
    return told


async def test_readers_that_give_little_credit_get_all_of_it_in_order() -> None:
    async with running_mesh(verdict=None, local=FakeEngine(model="small", answer=lambda spec: ANSWER)) as mesh:
        async with asyncio.timeout(60):
            told = await slowly(mesh.remote, range(1, 9))
        for events in told.values():
            assert [event.sequence for event in events] == list(range(len(events)))
            assert "".join(event.delta.text for event in events) == ANSWER
            assert events[-1].usage.completion_tokens == WORDS
        assert mesh.outcomes() == ["local:answered"] * 8


async def test_what_was_passed_on_unread_is_accounted_when_its_reader_leaves() -> None:
    async with running_mesh(
        verdict=None, local=FakeEngine(model="small", answer=lambda spec: ANSWER, interval_s=0.002)
    ) as mesh:
        tokens = 0
        events = mesh.stream(text())
        async for event in events:
            tokens += event.delta.tokens
            if tokens >= 50:
                break
        await events.aclose()
        async with asyncio.timeout(10):
            while not mesh.kept:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert mesh.outcomes() == ["local:cancelled"]
        assert mesh.kept[0].record.completion_tokens >= 50


class Cuts(FakeEngine):
    """Breaks off after deltas of so many `counts` tokens."""

    counts: tuple[int, ...] = (1, 0, 0, 2)

    async def generate(self, request: Any, call: Call) -> AsyncGenerator[v1.GenerationEvent]:
        yield v1.GenerationEvent(started=v1.Started(model="small"))
        for number, tokens in enumerate(self.counts, 1):
            yield v1.GenerationEvent(sequence=number, delta=v1.Delta(text="x", tokens=tokens))
            await asyncio.sleep(0)
        raise TargetDown("cut")


@pytest.mark.parametrize("in_sessions", [True, False], ids=["session", "alone"])
async def test_deltas_without_tokens_count_for_none_when_a_stream_is_cut(in_sessions: bool) -> None:
    async with running_mesh(verdict=None, local=Cuts(model="small")) as mesh:
        mesh.in_sessions = in_sessions
        with pytest.raises(StreamInterrupted):
            async for _ in mesh.stream(text(), v1.RoutingPolicy(allowed_targets=["local"])):
                pass
        assert mesh.kept[0].record.completion_tokens == 3
