"""When a runtime counts as ill."""

from __future__ import annotations

from services.local_engine.pulse import Pulse


def test_one_look_that_fails_is_no_illness_and_two_are() -> None:
    pulse = Pulse()
    assert not pulse.missed("answered 503", gone=False, busy=False)
    assert repr(pulse) == "<Pulse well 1 misses>"
    assert pulse.missed("answered 503", gone=False, busy=False)
    assert pulse.why == "answered 503"
    assert not pulse.missed("answered 503", gone=False, busy=False)


def test_a_good_look_between_two_that_fail_forgives_the_first() -> None:
    pulse = Pulse()
    pulse.missed("slow", gone=False, busy=False)
    assert not pulse.well()
    assert not pulse.missed("slow", gone=False, busy=False)
    assert not pulse.why


def test_a_runtime_where_nobody_listens_is_ill_at_once() -> None:
    pulse = Pulse()
    assert pulse.missed("cannot be reached", gone=True, busy=False)
    assert pulse.why


def test_a_runtime_too_busy_to_tell_its_health_is_not_ill() -> None:
    pulse = Pulse()
    assert not any(pulse.missed("took too long", gone=False, busy=True) for _ in range(9))
    assert not pulse.why


def test_to_be_well_again_is_news_once() -> None:
    pulse = Pulse()
    pulse.missed("gone", gone=True, busy=False)
    assert pulse.well()
    assert not pulse.well()
    assert repr(pulse) == "<Pulse well 0 misses>"
