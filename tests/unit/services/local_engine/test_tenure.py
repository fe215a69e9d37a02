from __future__ import annotations

from typing import Any

from services.local_engine.lease_settings import LeaseSettings
from services.local_engine.tenure import Lost, Renew, Rest, Tenure


def tenure(**told: Any) -> Tenure:
    """Held since 100, for 15 s unless renewed, with 2 s for cancelling."""
    return Tenure(LeaseSettings(**told), 7, 100.0)


def test_it_is_renewed_every_so_often() -> None:
    held = tenure()
    assert held.next(100.0) == Rest(5.0)
    assert held.next(105.0) == Renew()
    held.renewed(105.0, 15.0)
    assert held.next(105.1) == Rest(110.0 - 105.1)


def test_it_is_lost_so_early_that_the_call_can_be_cancelled_before_the_store_lets_another_in() -> None:
    held = tenure()
    held.missed(112.5)
    assert held.next(112.9) == Rest(113.0 - 112.9)
    assert held.next(113.0) == Lost("expired")


def test_a_renewal_counts_from_when_it_was_sent() -> None:
    held = tenure()
    held.renewed(105.0, 15.0)  # answered at 112
    held.missed(112.0)
    assert held.next(117.9) == Renew()
    assert held.next(118.0) == Lost("expired")


def test_a_renewal_that_failed_is_tried_again_soon() -> None:
    held = tenure()
    held.missed(105.25)
    assert held.next(105.25) == Rest(1.0)
    assert held.next(106.25) == Renew()


def test_the_answer_of_the_store_ends_it() -> None:
    for left_s, why in ((0.0, "gone"), (-1.0, "ended")):
        held = tenure()
        held.renewed(105.0, left_s)
        assert held.next(105.1) == Lost(why)


def test_what_is_lost_stays_lost() -> None:
    held = tenure()
    assert held.next(120.0) == Lost("expired")
    held.renewed(119.0, 15.0)
    held.lose("crashed")
    assert held.next(121.0) == Lost("expired")
    assert repr(held) == "<Tenure 7 lost expired>"


def test_the_longest_hold_ends_it_however_often_it_is_renewed() -> None:
    held = tenure(max_hold_s=20)
    held.renewed(116.0, 15.0)
    assert held.next(117.5) == Rest(0.5)
    assert held.next(118.0) == Lost("held_longest")


def test_less_left_than_asked_for_is_what_counts() -> None:
    held = tenure()
    held.renewed(105.0, 4.0)
    assert held.next(105.0) == Rest(2.0)
    assert held.next(107.0) == Lost("expired")


def test_news_has_the_store_asked_at_once() -> None:
    held = tenure()
    held.hurry(101.0)
    assert held.next(101.0) == Renew()


def test_where_that_is_allowed_it_goes_on_without_the_store_up_to_the_longest_hold() -> None:
    held = tenure(without_store="local", max_hold_s=60)
    assert held.next(113.0) == Rest(45.0)
    assert held.alone
    assert held.next(158.0) == Lost("held_longest")
