from __future__ import annotations

from spillway.deadline import Deadline
from spillway.testing.clock import HandClock


def test_what_is_left_shrinks_with_the_clock_and_ends_at_zero() -> None:
    clock = HandClock()
    deadline = Deadline.after(2.0, clock)

    assert deadline.left() == 2.0
    clock.advance(1.5)
    assert deadline.left() == 0.5
    assert not deadline.passed
    clock.advance(0.5)
    assert deadline.passed
    clock.advance(5)
    assert deadline.left() == 0.0


def test_a_share_of_a_deadline_never_outlives_it() -> None:
    clock = HandClock()
    deadline = Deadline.after(2.0, clock)

    assert deadline.within(0.5).left() == 0.5
    assert deadline.within(60).left() == 2.0


def test_repr_tells_what_is_left() -> None:
    assert repr(Deadline.after(1.25, HandClock())) == "<Deadline 1.250 s left>"
