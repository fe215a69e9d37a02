from __future__ import annotations

import asyncio

import pytest

from services.router.journal import Attempt
from services.router.release import MAX_WAITING, Release
from services.router.target import Target
from spillway import v1
from spillway.errors import StreamInterrupted


def opened() -> tuple[Release, Attempt]:
    release, attempt = Release(), Attempt(Target("t", "local", ""), 1, 0.0, v1.Attempt())
    release.open(attempt, lambda started: started.MergeFrom(v1.Started(target="t")))
    release.hear(v1.GenerationEvent(started=v1.Started(model="m")))
    return release, attempt


def said(release: Release, text: str, choice: int = 0, tokens: int = 1) -> None:
    release.hear(v1.GenerationEvent(delta=v1.Delta(choice=choice, text=text, tokens=tokens)))


def whole(*texts: str) -> list[v1.GenerationEvent]:
    """The events of an answer that has these choices of ten tokens."""
    deltas = [v1.Delta(choice=choice, text=text, tokens=10) for choice, text in enumerate(texts)]
    return [v1.GenerationEvent(started=v1.Started()), *(v1.GenerationEvent(delta=delta) for delta in deltas)]


async def given(release: Release) -> list[v1.GenerationEvent]:
    release.end()
    return [event async for event in release.events()]


def texts(events: list[v1.GenerationEvent], choice: int = 0) -> list[str]:
    return [event.delta.text for event in events if event.HasField("delta") and event.delta.choice == choice]


async def test_the_first_that_is_given_commits_and_comes_after_started() -> None:
    release, attempt = opened()
    said(release, "[1,")
    assert (release.begun, attempt.committed) == (False, False)
    release.accept(0, 2)
    assert (release.begun, attempt.committed) == (True, True)
    events = await given(release)
    assert (events[0].started.model, events[0].started.target) == ("m", "t")
    assert texts(events) == ["[1"]


async def test_each_choice_is_given_as_far_as_its_own_records() -> None:
    release, _ = opened()
    said(release, "```json\n[1, 2", 1)
    said(release, "[3, 4", 0)
    said(release, "]", 0)
    release.accept(1, len("```json\n[1"))
    release.accept(0, 2)
    release.accept(0, 5)
    events = await given(release)
    assert (texts(events, 0), texts(events, 1)) == (["[3", ", 4"], ["[1"])
    left = list(release.rest(whole("[3, 4]", "[1, 2]")))
    assert [event.delta.text for event in left] == ["]", ", 2]"]


async def test_tokens_are_told_once_and_with_the_text_that_they_end() -> None:
    release, _ = opened()
    for text in ("[1", ", 2", ", 3"):
        said(release, text, tokens=2)
    release.accept(0, 4)
    release.accept(0, 8)
    events = await given(release)
    assert [event.delta.tokens for event in events[1:]] == [2, 4]
    assert [event.delta.tokens for event in release.rest(whole("[1, 2, 3]"))] == [4]


async def test_what_nobody_judged_at_last_is_given_as_it_came() -> None:
    release, _ = opened()
    said(release, "```json\n[1, 2]\n```")
    release.accept(0, len("```json\n[1"))
    left = list(release.rest(whole("```json\n[1, 2]\n```")))
    assert [event.delta.text for event in left] == [", 2]\n```"]


async def test_nothing_given_everything_is_left() -> None:
    release, _ = opened()
    said(release, "[1, 2]")
    assert list(release.rest(whole("[1, 2]"))) == whole("[1, 2]")


def test_json_that_begins_otherwise_than_what_was_given_is_refused() -> None:
    release, _ = opened()
    said(release, "[1, 2")
    release.accept(0, 2)
    good, other = (v1.Verdict(decision=v1.VERDICT_DECISION_REPAIR, accepted_json=text) for text in ("[1, 2]", "[2, 1]"))
    refused = v1.Verdict(decision=v1.VERDICT_DECISION_RETRY)
    assert release.held_to([good]) == [good]
    assert release.held_to([refused]) == [refused]
    assert release.held_to([other])[0].decision == v1.VERDICT_DECISION_REJECT
    assert release.held_to([good, other])[1] is other, "of its second choice nothing was given"


def test_an_answer_that_begins_anew_is_taken_until_something_of_it_was_given() -> None:
    release, _ = opened()
    anew = v1.GenerationEvent(route_changed=v1.RouteChanged(restarted=True))
    said(release, "[7")
    release.hear(anew)
    said(release, "[1, ")
    release.accept(0, 2)
    with pytest.raises(StreamInterrupted):
        release.hear(anew)


async def test_a_slow_reader_holds_up_the_target() -> None:
    release, _ = opened()
    events = release.events()
    for number in range(MAX_WAITING + 5):
        said(release, "[" if not number else ",")
        release.accept(0, number + 1)
    room = asyncio.create_task(release.room())
    for _ in range(3):
        await anext(events)
        await asyncio.sleep(0)
    assert not room.done()
    for _ in range(3):
        await anext(events)
    await room
    await events.aclose()
