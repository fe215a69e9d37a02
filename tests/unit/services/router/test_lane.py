"""What goes by the fast lane is numbered, counted and kept as if it had been read."""

from __future__ import annotations

import pytest

from services.router.leg import Leg
from services.router.progress import Progress
from services.router.target import Target
from spillway import v1
from spillway.rpc.lane import Lane

FIRST, SECOND = Target("t0", "local", "a:1", weights="w"), Target("t1", "local", "b:1", weights="w")


class Road:
    """A live stream that has begun, and what has left by its lane."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.left: list[v1.GenerationEvent] = []
        self.lane = Lane(self._leave, 1000)
        self.progress = Progress(v1.GenerationSpec(), [FIRST, SECOND], lane=self.lane)
        self.progress.begin(FIRST, Leg(v1.GenerationSpec()))
        self.progress.take(v1.GenerationEvent(started=v1.Started()))
        self.lane.open = True

    def _leave(self, event: bytes, tokens: int) -> None:
        self.raw.append(event)
        self.left.append(v1.GenerationEvent.FromString(event))

    def take(self, delta: v1.Delta, sequence: int) -> bool:
        return self.lane.take(v1.GenerationEvent(sequence=sequence, delta=delta).SerializeToString(), delta.tokens)


def delta(text: str, *ids: int) -> v1.Delta:
    return v1.Delta(text=text, token_ids=ids, tokens=len(ids))


@pytest.mark.parametrize("first", [1, 2, 120, 2**40])
def test_events_leave_in_one_row_of_numbers_whatever_numbers_they_come_with(first: int) -> None:
    road = Road()
    assert all(road.take(delta("x", 7), sequence=first + number) for number in range(300))
    assert [event.sequence for event in road.left] == list(range(1, 301))
    assert {event.delta.text for event in road.left} == {"x"}


@pytest.mark.parametrize("own", [0, 3, 1, 300])
def test_an_event_that_was_numbered_anew_before_gets_its_number_here_too(own: int) -> None:
    road, before = Road(), Road()
    before.lane.sequence = 2 if own != 300 else 200
    before.take(delta("x", 7), sequence=own)
    road.lane.sequence = own or 1
    road.lane.take(before.raw[0], 1)
    assert [event.sequence for event in road.left] == [own or 1]
    assert road.raw[0] == road.left[0].SerializeToString()


def test_what_there_is_no_credit_for_is_not_counted_and_comes_again() -> None:
    road = Road()
    road.lane.credit = 0
    assert not road.take(delta("a", 1), sequence=1)
    assert (road.progress.sequence, road.progress.tokens, road.lane.passed) == (1, 0, 0)
    road.progress.take(v1.GenerationEvent(delta=delta("a", 1)))
    road.lane.credit = 1
    assert road.take(delta("b", 2), sequence=2)
    assert [(event.sequence, event.delta.text) for event in road.left] == [(2, "b")]
    assert (road.progress.sequence, road.progress.tokens, road.lane.passed) == (3, 2, 1)
    assert not road.take(delta("c", 3), sequence=3)


def test_a_lane_is_closed_until_the_answer_has_begun() -> None:
    road = Road()
    road.lane.open = False
    assert not road.take(delta("a", 1), sequence=1)
    assert road.left == []


def test_another_target_goes_on_after_what_nobody_has_read() -> None:
    road = Road()
    road.take(delta("ab", 1, 2), sequence=1)
    road.progress.take(v1.GenerationEvent(delta=delta("c", 3)))
    road.take(delta("d", 4), sequence=3)
    (leg,) = road.progress.legs(SECOND, restarts=False)
    assert leg.spec.continuation == v1.Continuation(token_ids=[1, 2, 3, 4], text="abcd")


@pytest.mark.parametrize("other", [v1.Delta(reasoning="hm", token_ids=[3], tokens=1), v1.Delta(text="c", tokens=1)])
def test_nothing_goes_on_after_unread_reasoning_or_tokens_without_ids(other: v1.Delta) -> None:
    road = Road()
    road.take(delta("ab", 1, 2), sequence=1)
    road.take(other, sequence=2)
    assert list(road.progress.legs(SECOND, restarts=False)) == []
    assert road.progress.tokens == 3
