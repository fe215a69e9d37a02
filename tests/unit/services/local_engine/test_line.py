from __future__ import annotations

import pytest

from services.local_engine.line import Line, Ticket
from spillway.errors import TargetBusy


def ticket(name: str, *, background: bool = False) -> Ticket:
    return Ticket(name, name, background, 0.0)


def line(places: int = 10, slots: int = 1) -> Line:
    return Line("r", places=places, slots=slots)


def test_who_came_first_is_next_interactive_calls_before_background_ones() -> None:
    waiting, order = line(), []
    for name in ("b1", "i1", "b2", "i2"):
        waiting.join(ticket(name, background=name.startswith("b")), 30.0)
    while (head := waiting.head) is not None:
        order.append(head.token)
        assert waiting.leave(head)
        assert not waiting.leave(head)
    assert order == ["i1", "i2", "b1", "b2"]


def test_a_full_line_refuses_and_says_when_to_come_back() -> None:
    waiting = line(places=1)
    waiting.inside = 1
    waiting.join(ticket("a"), 30.0)
    with pytest.raises(TargetBusy, match="lease r: 1 calls wait already") as caught:
        waiting.join(ticket("b"), 30.0)
    assert (caught.value.resource, caught.value.retry_after_s) == ("r", 1.0)


def test_without_places_to_wait_a_free_slot_can_still_be_taken() -> None:
    waiting = line(places=0)
    waiting.join(ticket("a"), 30.0)
    assert waiting.leave(ticket("other")) is False
    head = waiting.head
    assert head is not None
    waiting.leave(head)
    waiting.inside = 1
    with pytest.raises(TargetBusy):
        waiting.join(ticket("b"), 30.0)


def test_a_wait_that_would_be_longer_than_allowed_is_refused_at_once() -> None:
    waiting = line()
    waiting.inside, waiting.beside = 1, 1
    waiting.join(ticket("a"), 1.0)  # nothing is known yet
    waiting.ended(4.0)
    assert waiting.wait_s(False) == 16.0  # two calls ahead or under way, and another engine takes turns
    with pytest.raises(TargetBusy, match=r"the wait would be about 16\.0 s, more than the 10\.0 s allowed") as caught:
        waiting.join(ticket("b"), 10.0)
    assert caught.value.retry_after_s == 16.0
    waiting.join(ticket("c"), 20.0)


def test_who_need_not_wait_is_never_refused_for_a_guess() -> None:
    waiting = line()
    waiting.ended(100.0)
    waiting.beside = 5
    waiting.join(ticket("a"), 0.1)
    assert repr(waiting) == "<Line r 0 inside 1 waiting>"


def test_more_slots_are_less_to_wait_for() -> None:
    waiting = line(slots=4)
    waiting.inside = 4
    waiting.ended(4.0)
    assert waiting.wait_s(False) == 1.0


def test_who_waited_in_vain_is_told_how_long_the_next_turn_takes() -> None:
    waiting = line()
    assert waiting.busy("it was not free").retry_after_s == 1.0  # nothing is known
    waiting.ended(4.0)
    assert waiting.busy("it was not free").retry_after_s == 4.0  # another engine holds it: `inside` is 0
    waiting.join(ticket("a"), 30.0)
    assert waiting.busy("it was not free").retry_after_s == 8.0


def test_background_work_in_line_keeps_nobody_away_for_the_length_of_it() -> None:
    waiting = line()
    waiting.inside = 1
    waiting.ended(4.0)
    for name in "abc":
        waiting.join(ticket(name, background=True), 30.0)
    with pytest.raises(TargetBusy, match=r"would be about 16\.0 s") as caught:
        waiting.join(ticket("d", background=True), 10.0)
    assert caught.value.retry_after_s == 4.0


def test_a_line_that_is_shut_for_another_reason_does_not_guess_from_holds() -> None:
    waiting = line()
    waiting.ended(40.0)
    assert waiting.shut("the store is away").retry_after_s == 1.0
