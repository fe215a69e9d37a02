"""The arithmetic of limits."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from services.cloud_proxy.limits import (
    ALLOWED,
    REQUESTS,
    TOKENS,
    WINDOW_S,
    Amounts,
    Decision,
    Limits,
    Window,
    estimate,
    tokens_of,
)

ONE = Amounts(1, 0)


def test_exactly_the_limit_passes_and_the_rest_learn_when_to_come_back() -> None:
    window, limits = Window(), Limits(requests=60)
    decisions = [window.reserve(str(at), ONE, limits, at * 0.01) for at in range(500)]
    assert decisions.count(ALLOWED) == 60
    assert decisions[-1] == Decision(False, REQUESTS, WINDOW_S - 4.99)


def test_a_refused_call_takes_nothing_of_any_limit() -> None:
    window, limits = Window(), Limits(requests=10, tokens=100)
    window.reserve("a", Amounts(1, 90), limits, 0)
    assert window.reserve("b", Amounts(1, 20), limits, 1).limit == TOKENS
    assert window.totals == [1, 90]


def test_the_same_id_counts_once() -> None:
    window, limits = Window(), Limits(requests=1)
    assert window.reserve("a", ONE, limits, 0) == window.reserve("a", ONE, limits, 1) == ALLOWED
    assert window.totals == [1, 0]


def test_settling_gives_back_or_charges_the_difference_once() -> None:
    window, limits = Window(), Limits(tokens=100)
    window.reserve("a", Amounts(1, 100), limits, 0)
    for _ in range(2):
        window.settle("a", Amounts(1, 30), 1)
    assert window.totals == [1, 30]
    window.settle("a", Amounts(1, 130), 2)
    assert window.totals == [1, 130]
    window.settle("unknown", Amounts(1, 5), 2)
    assert window.totals == [1, 130]


def test_what_nobody_settles_leaves_with_the_window() -> None:
    window, limits = Window(), Limits(requests=1)
    window.reserve("lost", ONE, limits, 0)
    assert not window.reserve("early", ONE, limits, WINDOW_S - 0.001).allowed
    assert window.reserve("later", ONE, limits, WINDOW_S).allowed


def test_a_call_that_alone_is_more_than_the_limit_never_fits() -> None:
    decision = Window().reserve("a", Amounts(1, 101), Limits(tokens=100), 0)
    assert decision == Decision(False, TOKENS, None)


def test_the_wait_is_until_enough_of_every_limit_has_left() -> None:
    window, limits = Window(), Limits(requests=3, tokens=100)
    for at, tokens in ((0, 10), (5, 40), (9, 50)):
        window.reserve(str(at), Amounts(1, tokens), limits, at)
    assert window.reserve("x", Amounts(1, 45), limits, 10).wait_s == WINDOW_S - 5


def test_a_share_is_never_without_limit_and_never_nothing() -> None:
    assert Limits(60, 1000).share(2) == Limits(30, 500)
    assert Limits(1, None).share(3) == Limits(1, None)


@given(st.integers(0, 10_000))
def test_no_sixty_seconds_see_more_than_the_limit(seed: int) -> None:
    rng = random.Random(seed)
    window, limits = Window(), Limits(requests=5, tokens=50)
    now, passed = 0.0, []
    for at in range(120):
        now += rng.expovariate(0.5)
        tokens = rng.randint(0, 30)
        decision = window.reserve(str(at), Amounts(1, tokens), limits, now)
        if decision.allowed:
            passed.append((now, tokens))
        else:
            assert decision.wait_s is not None
            assert 0 < decision.wait_s <= WINDOW_S
    for began, _ in passed:
        inside = [tokens for moment, tokens in passed if began <= moment < began + WINDOW_S]
        assert len(inside) <= 5
        assert sum(inside) <= 50


def test_what_is_reserved_is_the_prompt_and_the_longest_answer_asked_for() -> None:
    told = {"prompt_tokens": 10, "choices": 2, "default": 100}
    assert estimate(**told, max_tokens=7, limits=Limits()) == Amounts(1, 24)
    assert estimate(**told, max_tokens=None, limits=Limits()) == Amounts(1, 210)
    assert estimate(**told, max_tokens=None, limits=Limits(tokens=50)) == Amounts(1, 50)
    assert tokens_of(len("中文".encode())) == 2
