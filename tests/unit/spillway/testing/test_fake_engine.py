from __future__ import annotations

from typing import Any

import pytest

from spillway import errors, v1
from spillway.errors import SpillwayError
from spillway.testing.fake_engine import FakeEngine, serving_engine, words
from spillway.testing.faults import Cut, Garbage, Refuse, Script, Silence, SlowFirst, Stall


def kinds(events: list[v1.GenerationEvent]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


async def test_it_answers_word_by_word(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine(answer=lambda spec: "a b  c")
    async with serving_engine(engine) as server:
        events = await mesh.client(server).events(spec(), call())

    assert [event.delta.text for event in events if event.HasField("delta")] == ["a", " b", "  c"]
    assert (engine.running, engine.finished, engine.failed, engine.cancelled) == (0, 1, 0, 0)


async def test_tokens_that_are_due_together_come_together(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine(answer=lambda spec: "word " * 50, interval_s=0.001, window_s=0.02)
    async with serving_engine(engine) as server:
        events = await mesh.client(server).events(spec(), call())

    deltas = [event.delta for event in events if event.HasField("delta")]
    assert sum(delta.tokens for delta in deltas) == len(words("word " * 50))
    assert len(deltas) < 25
    assert deltas[0].tokens < 25


@pytest.mark.parametrize(
    ("fault", "sent", "error"),
    [
        (Refuse(errors.QueueFull()), 0, errors.QueueFull),
        (Silence(), 0, errors.DeadlineExceeded),
        (Stall(2), 2, errors.DeadlineExceeded),
        (Stall(0), 0, errors.DeadlineExceeded),
        (Cut(2), 2, errors.TargetDown),
        (Cut(0), 0, errors.TargetDown),
        (Cut(5), 5, errors.TargetDown),
    ],
    ids=repr,
)
async def test_a_fault_happens_where_it_is_scripted(
    mesh: Any, call: Any, spec: Any, fault: Any, sent: int, error: type[SpillwayError]
) -> None:
    engine = FakeEngine(faults=Script(fault))
    arrived: list[v1.GenerationEvent] = []
    async with serving_engine(engine) as server:
        client = mesh.client(server)
        with pytest.raises(error):
            async with client.stream(spec(), call(0.3)) as responses:
                async for response in responses:
                    arrived.append(response.event)  # noqa: PERF401

        assert kinds(arrived) == (["started", *["delta"] * sent] if sent else [])
        assert kinds(await client.events(spec(), call()))[-1] == "usage"  # the script is over


async def test_garbage_and_slowness_are_no_failures(mesh: Any, call: Any, spec: Any) -> None:
    engine = FakeEngine(faults=Script(Garbage("{{"), SlowFirst(0.01)))
    async with serving_engine(engine) as server:
        client = mesh.client(server)

        assert (await client.generate(spec(), call())).choices[0].content.text == "{{"
        assert (await client.generate(spec(), call())).choices[0].content.text == "one two three four five"


async def test_it_counts_how_each_generation_ended(mesh: Any, call: Any, spec: Any, until: Any) -> None:
    engine = FakeEngine(faults=Script(Refuse(errors.TargetBusy()), Silence(), None))
    async with serving_engine(engine) as server:
        client = mesh.client(server)
        for seconds in (5, 0.05, 5):
            try:
                await client.generate(spec(), call(seconds))
            except SpillwayError:
                continue
        await until(lambda: (engine.finished, engine.failed, engine.cancelled) == (1, 1, 1))


def test_a_script_says_what_is_to_come() -> None:
    script = Script(Cut(1), None, always=Silence())

    assert repr(script) == "<Script 2 faults, then Silence()>"
    assert [script.next() for _ in range(3)] == [Cut(1), None, Silence()]
