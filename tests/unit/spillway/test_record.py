"""Records are values: equal by what they hold, and good as keys."""

from __future__ import annotations

from dataclasses import replace

from spillway.record import record


@record
class Place:
    """A place."""

    city: str
    floor: int = 0


def test_records_that_hold_the_same_are_the_same_key() -> None:
    assert {Place("Graz"): 1}[Place("Graz", 0)] == 1
    assert Place("Graz") != Place("Graz", 1)


def test_a_record_with_something_else_is_another_one() -> None:
    ground = Place("Graz")
    assert replace(ground, floor=2) == Place("Graz", 2)
    assert ground == Place("Graz")


def test_a_record_has_no_room_for_what_it_does_not_declare() -> None:
    assert not hasattr(Place("Graz"), "__dict__")
