"""The rules of one breaker, on a clock moved by hand."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.router.breaker import SOUND, Breaker, Closed, Event, HalfOpened, Held, Opened, State
from services.router.breaker_settings import BreakerSettings
from services.router.outcome import Outcome

ANSWERED, DOWN, FAILED, AWAY, NEUTRAL = (
    Outcome.ANSWERED,
    Outcome.DOWN,
    Outcome.FAILED,
    Outcome.AWAY,
    Outcome.NEUTRAL,
)


def breaker(draw: float = 0.0, **settings: float | None) -> Breaker:
    return Breaker("local", BreakerSettings.model_validate(settings), lambda: draw)


def opened(draw: float = 0.0, **settings: float | None) -> Breaker:
    """One that opened at 0."""
    found = breaker(draw, **settings)
    tell(found, 0.0, DOWN, DOWN, DOWN)
    assert found.standing(0).state is State.OPEN
    return found


def tell(one: Breaker, now: float, *outcomes: Outcome) -> list[Event]:
    return [event for outcome in outcomes for event in one.record(outcome, now)]


def test_three_connection_level_failures_in_a_row_open_it() -> None:
    one = breaker()
    assert tell(one, 1, DOWN, DOWN, ANSWERED, DOWN, DOWN) == []
    assert tell(one, 2, DOWN) == [Opened("local", "", "3 failures in a row", 25.0)]
    assert repr(one) == "<Breaker local open 5/6>"


def test_failures_that_are_not_connection_level_do_not_open_it_by_their_run() -> None:
    one = breaker()
    assert tell(one, 1, *[FAILED] * 19) == []
    assert tell(one, 1, FAILED) == [Opened("local", "", "20 of 20 attempts failed", 25.0)]


def test_it_opens_over_fifteen_percent_of_at_least_twenty_and_not_at_fifteen() -> None:
    one = breaker()
    assert tell(one, 1, *[ANSWERED] * 17, FAILED, FAILED, FAILED) == []
    assert [type(event) for event in tell(one, 1, FAILED)] == [Opened]
    few = breaker()
    assert tell(few, 1, *[ANSWERED] * 10, *[FAILED] * 9) == []


def test_what_left_the_window_no_longer_counts() -> None:
    one = breaker(in_a_row=None)
    tell(one, 0, *[FAILED] * 19)
    assert tell(one, 61, FAILED) == []


def test_the_callers_errors_cancels_filters_and_limits_never_open_it() -> None:
    one = breaker()
    assert tell(one, 1, *[NEUTRAL, AWAY] * 100) == []
    assert one.sound(1)
    assert tell(one, 1, DOWN, DOWN, NEUTRAL, DOWN) != []  # nor do they end a run


def test_a_refused_answer_is_an_answer_to_the_transport() -> None:
    one = breaker()
    assert tell(one, 1, *[Outcome.REFUSED] * 100) == []
    assert one.sound(1)


def test_the_time_open_has_jitter_upward_and_grows_while_probes_fail_up_to_its_limit() -> None:
    for draw in (0.0, 0.5, 0.999):
        one, now, times = opened(draw), 0.0, []
        for _ in range(10):
            left = one.standing(now).left_s
            times.append(round(left, 6))
            now += left + 1e-9
            probe = one.take_probe(now)
            assert probe is not None
            one.record(DOWN, now, probe=probe)
        assert times[0] == pytest.approx(25 * (1 + 0.1 * draw))
        assert all(later >= earlier for earlier, later in pairwise(times))
        assert times[-1] == pytest.approx(30 / 1.1 * (1 + 0.1 * draw))
        assert max(times) <= 30


def test_half_open_lets_its_probes_through_and_no_more() -> None:
    one = opened(probes=2)
    assert one.take_probe(24.9) is None
    assert one.advance(25) == (HalfOpened("local", ""),)
    first, second = one.take_probe(25), one.take_probe(25)
    assert None not in (first, second)
    assert one.take_probe(25) is None
    assert one.standing(25).objection(0.0).startswith("its breaker is half open and being probed")
    assert one.record(NEUTRAL, 26, probe=second) == ()  # a probe that proved nothing makes room for the next
    assert one.take_probe(26) is not None


def test_a_probe_that_never_ends_bars_the_next_for_a_while_only() -> None:
    one = opened()
    one.take_probe(25)
    assert one.take_probe(39.9) is None
    assert one.standing(39.9).left_s == pytest.approx(0.1)
    assert one.take_probe(40) is not None


def test_a_probe_given_back_is_free_again_and_a_bar_ends() -> None:
    one = opened()
    probe = one.take_probe(25)
    assert probe is not None
    one.bar(26)
    one.give_back(probe)
    assert one.take_probe(25.9) is None
    assert one.take_probe(26) is not None


def test_a_probe_that_is_answered_closes_it_with_a_ramp() -> None:
    one = opened()
    one.advance(25)
    probe = one.take_probe(25)
    assert one.record(ANSWERED, 26, began=25, probe=probe) == (Closed("local", "", "it answers"),)
    shares = [one.standing(26 + seconds).share for seconds in (0, 1, 2.5, 4.9)]
    assert shares[0] == pytest.approx(0.1)
    assert shares == sorted(shares)
    assert one.standing(28.5).objection(0.0) == ""
    assert one.standing(28.5).objection(0.9) == "its breaker has just closed: it gets 55% of the requests"
    assert one.standing(31) == SOUND


def test_a_probe_that_fails_opens_it_again() -> None:
    for outcome in (DOWN, FAILED):
        one = opened()
        one.advance(25)
        (event,) = one.record(outcome, 26, probe=one.take_probe(25))
        assert isinstance(event, Opened)
        assert event.why == "it fails when probed"
        assert event.seconds == pytest.approx(30 / 1.1)


def test_where_several_answers_are_wanted_a_failure_between_starts_them_anew() -> None:
    one = opened(answers_to_close=2)
    for outcome, now in ((ANSWERED, 25.0), (DOWN, 25.0)):
        one.record(outcome, now, probe=one.take_probe(now))
    assert one.record(ANSWERED, 60, probe=one.take_probe(60))[1:] == ()
    assert one.record(ANSWERED, 60, probe=one.take_probe(60)) == (Closed("local", "", "it answers"),)


def test_results_of_attempts_older_than_the_last_change_count_for_nothing() -> None:
    one = opened()
    assert one.record(ANSWERED, 1, began=-1) == ()  # it was on its way when the breaker opened
    one.record(ANSWERED, 25, probe=one.take_probe(25))
    assert [one.record(DOWN, 26, began=20) for _ in range(5)] == [()] * 5


def test_an_answer_to_a_request_that_had_no_other_choice_closes_it() -> None:
    one = opened()
    assert one.record(DOWN, 5, began=4) == ()
    assert one.record(ANSWERED, 6, began=5) == (Closed("local", "", "it answers"),)


def test_a_target_that_says_when_to_come_back_is_held_so_long_and_no_failure_is_counted() -> None:
    one = breaker()
    for _ in range(100):
        one.record(DOWN, 0, retry_after_s=10)
    assert one.standing(4).objection(0.0) == "its breaker is open for 6 s more: it asked to be left alone"
    assert one.standing(10) == SOUND
    assert one.record(AWAY, 11, retry_after_s=3600) == (Held("local", "", 60.0),)
    assert one.record(AWAY, 12, retry_after_s=5) == ()  # a shorter one shortens nothing
    assert breaker().record(NEUTRAL, 0, retry_after_s=10) == ()


def test_a_probe_told_to_come_back_later_leaves_it_half_open_for_then() -> None:
    one = opened()
    assert one.record(AWAY, 25, retry_after_s=10, probe=one.take_probe(25))[1:] == (Held("local", "", 10.0),)
    assert one.take_probe(34) is None
    assert one.take_probe(35) is not None


def test_another_routers_word_opens_it_and_closes_what_it_opened() -> None:
    one = breaker()
    assert one.hear_open(20, "3 failures in a row", 1) == (Opened("local", "", "3 failures in a row", 20, heard=True),)
    assert one.hear_closed("it answers another router", 5) == (
        Closed("local", "", "it answers another router", heard=True),
    )
    assert one.standing(5).share == pytest.approx(0.1)


def test_what_it_found_out_itself_does_not_close_on_anothers_word() -> None:
    one = opened()
    assert one.hear_open(40, "elsewhere too", 5) == ()
    assert one.standing(5).left_s == 40
    assert one.hear_closed("it answers another router", 6) == ()
    assert one.standing(6).state is State.OPEN
    assert breaker().hear_closed("it answers another router", 6) == ()


def test_an_answer_just_had_contradicts_anothers_word_until_it_is_old_or_a_failure_follows() -> None:
    one = breaker()
    assert not one.contradicts(0, 5)
    tell(one, 1, ANSWERED)
    assert one.contradicts(5.9, 5)
    assert not one.contradicts(6, 5)
    tell(one, 2, DOWN)
    assert not one.contradicts(2, 5)


def test_a_reset_closes_at_once_and_without_a_ramp() -> None:
    one = opened()
    one.record(AWAY, 1, retry_after_s=50)
    assert one.reset(2) == (Closed("local", "", "reset"),)
    assert one.standing(2) == SOUND
    assert one.reset(2) == ()


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="longest_open_s: must be at least"):
        BreakerSettings(open_s=28, longest_open_s=30)


@given(st.integers(0, 10_000))
def test_whatever_happens_probes_keep_to_their_number_and_it_recovers(seed: int) -> None:
    rng = random.Random(seed)
    settings = BreakerSettings(probes=rng.randint(1, 3), answers_to_close=rng.randint(1, 3))
    one = Breaker("local", settings, rng.random)
    now, under_way = 0.0, list[tuple[int | None, float]]()

    def step(outcomes: list[Outcome]) -> None:
        nonlocal under_way
        under_way = [(probe, began) for probe, began in under_way if probe is None or now - began < settings.probe_s]
        standing = one.standing(now)
        if standing.state is not State.HALF_OPEN:
            under_way = [(None, began) for _, began in under_way]  # nothing it lets through is a probe any more
        if rng.random() < 0.6:
            probe = one.take_probe(now) if standing.state is State.HALF_OPEN else None
            if probe is not None or standing.state is State.CLOSED or rng.random() < 0.1:
                under_way.append((probe, now))
        elif under_way:
            probe, began = under_way.pop(rng.randrange(len(under_way)))
            wait = rng.choice([None, None, None, 10.0])
            one.record(rng.choice(outcomes), now, began=began, retry_after_s=wait, probe=probe)
        assert sum(probe is not None for probe, _ in under_way) <= settings.probes
        assert standing.left_s <= max(settings.longest_hold_s, settings.longest_open_s)

    for _ in range(300):
        now += rng.expovariate(1)
        step(list(Outcome))
    now += settings.longest_hold_s
    for _ in range(settings.answers_to_close * 5):  # whatever it was left in, answers bring it back
        now += settings.longest_open_s
        one.record(ANSWERED, now, probe=one.take_probe(now))
    assert one.sound(now + settings.ramp_s)
