"""Sessions that break one after the other are opened ever more rarely; one that lasted begins anew."""

from __future__ import annotations

import pytest

from spillway.session.backoff import FIRST_S, LONGEST_S, STEADY_S, Backoff


def test_the_first_session_is_opened_at_once() -> None:
    assert Backoff().over(-1e9)


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(1, FIRST_S), (2, 2 * FIRST_S), (4, 8 * FIRST_S), (11, LONGEST_S), (10_000, LONGEST_S)]
)
def test_each_failure_in_a_row_doubles_the_time_up_to_the_longest(failures: int, delay_s: float) -> None:
    backoff = Backoff(failures - 1).after(0.0, now=7.0, chance=1.0)
    assert (backoff.failures, backoff.until) == (failures, 7.0 + delay_s)
    assert not backoff.over(7.0)
    assert backoff.over(backoff.until)


def test_chance_takes_up_to_half_of_the_time_away() -> None:
    untils = [Backoff().after(0.0, now=0.0, chance=chance).until for chance in (0.0, 0.5, 1.0)]
    assert untils == pytest.approx([FIRST_S / 2, FIRST_S * 0.75, FIRST_S])


def test_a_session_that_lasted_is_the_first_failure_however_many_there_were() -> None:
    assert Backoff(9, 5.0).after(STEADY_S, now=100.0, chance=1.0) == Backoff(1, 100.0 + FIRST_S)
