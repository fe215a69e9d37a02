"""The arithmetic of limits."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from services.cloud_proxy.limits import (
    ALLOWED,
    CONCURRENCY,
    CONCURRENCY_WAIT_S,
    DAY_S,
    INPUT_TOKENS,
    KEPT,
    NANO_USD,
    OUTPUT_TOKENS,
    REQUESTS,
    SLICES,
    TOKENS,
    WINDOW_S,
    Amounts,
    Decision,
    Limits,
    Scope,
    Window,
    decide,
    estimate,
    tokens_of,
)

SLICE_S = WINDOW_S / SLICES
COUNTED_S = KEPT * SLICE_S
"""What counts leaves after this, and a slice later at the latest."""
ONE = Amounts(1)


class Door:
    """One provider's windows, asked as a proxy alone asks them."""

    def __init__(self, *scopes: Scope) -> None:
        self.scopes = scopes
        self.windows = {scope.name: Window() for scope in scopes}

    def ask(self, id: str, amounts: Amounts, now: float, wall_s: float = 0.0) -> Decision:
        return decide(self.windows, self.scopes, id, amounts, now, wall_s=wall_s)


def door(**limits: int) -> tuple[Door, Window]:
    made = Door(Scope("", Limits(**limits)))
    return made, made.windows[""]


def test_exactly_the_limit_passes_and_the_rest_learn_when_to_come_back() -> None:
    asked, _ = door(requests=60)
    decisions = [asked.ask(str(at), ONE, at * 0.01) for at in range(500)]
    assert decisions.count(ALLOWED) == 60
    assert decisions[-1].limit == REQUESTS
    assert decisions[-1].wait_s is not None
    assert COUNTED_S - 5 <= decisions[-1].wait_s <= COUNTED_S - 5 + 2 * SLICE_S


def test_each_limit_holds_and_is_named() -> None:
    for limits, amounts, name in (
        ({"requests": 1}, Amounts(1), REQUESTS),
        ({"tokens": 9}, Amounts(1, 3, 2), TOKENS),
        ({"input_tokens": 5}, Amounts(1, 3), INPUT_TOKENS),
        ({"output_tokens": 5}, Amounts(1, 0, 3), OUTPUT_TOKENS),
        ({"concurrency": 1}, Amounts(1), CONCURRENCY),
        ({"nano_usd": 5}, Amounts(1, nano_usd=3), NANO_USD),
    ):
        asked, _ = door(**limits)
        assert asked.ask("a", amounts, 0).allowed
        assert asked.ask("b", amounts, 1).limit == name


def test_a_refused_call_takes_nothing_of_any_scope() -> None:
    asked = Door(Scope("", Limits(requests=10)), Scope("tenant:a", Limits(tokens=100)))
    assert asked.ask("a", Amounts(1, 60, 30), 0).allowed
    refused = asked.ask("b", Amounts(1, 10, 10), 1)
    assert (refused.limit, refused.scope) == (TOKENS, "tenant:a")
    assert [window.totals for window in asked.windows.values()] == [[1, 60, 30]] * 2


def test_the_same_id_counts_once() -> None:
    asked, window = door(requests=1)
    assert asked.ask("a", ONE, 0) == asked.ask("a", ONE, 1) == ALLOWED
    assert window.totals == [1, 0, 0]


def test_settling_gives_back_or_charges_the_difference_once() -> None:
    asked, window = door(tokens=100)
    asked.ask("a", Amounts(1, 60, 40), 0)
    for _ in range(2):
        window.change("a", Amounts(1, 60, 10), 1, day=0, final=True)
    assert window.totals == [1, 60, 10]
    window.change("unknown", Amounts(1, 5), 2, day=0, final=True)
    assert window.totals == [1, 60, 10]
    assert repr(window) == "<Window 1 requests, 60 + 10 tokens, 0 running>"


def test_what_is_used_beyond_what_was_reserved_counts_from_when_it_is_known() -> None:
    asked, window = door(tokens=100)
    asked.ask("a", Amounts(1, 10, 10), 0)
    window.change("a", Amounts(1, 10, 50), 30, day=0, final=False)
    window.forget(COUNTED_S + SLICE_S)
    assert window.totals == [0, 0, 40]
    window.change("a", Amounts(1, 10, 5), COUNTED_S + 2, day=0, final=True)  # where it counted has left
    assert window.totals == [0, 0, 40]


def test_what_nobody_settles_leaves_with_the_window() -> None:
    asked, window = door(requests=1)
    asked.ask("lost", ONE, 0)
    assert not asked.ask("early", ONE, COUNTED_S).allowed
    assert asked.ask("later", ONE, COUNTED_S + SLICE_S).allowed
    assert window.totals == [1, 0, 0]


def test_a_call_that_alone_is_more_than_the_limit_never_fits() -> None:
    asked, _ = door(tokens=100)
    assert asked.ask("a", Amounts(1, 101), 0) == Decision(False, TOKENS, None)


def test_the_wait_is_until_enough_of_every_limit_has_left() -> None:
    asked, _ = door(requests=3, tokens=100)
    for at, tokens in ((0, 10), (5, 40), (9, 50)):
        asked.ask(str(at), Amounts(1, tokens), at)
    wait_s = asked.ask("x", Amounts(1, 45), 10).wait_s
    assert wait_s == 5 + COUNTED_S + SLICE_S - 10


def test_money_is_of_a_day_and_not_given_back_to_another() -> None:
    asked, window = door(nano_usd=100)
    assert asked.ask("a", Amounts(1, nano_usd=100), 0, wall_s=10).allowed
    refused = asked.ask("b", Amounts(1, nano_usd=1), 1, wall_s=11)
    assert (refused.limit, refused.wait_s) == (NANO_USD, DAY_S - 11)
    assert asked.ask("c", Amounts(1, nano_usd=90), 2, wall_s=DAY_S).allowed
    window.change("a", Amounts(1, nano_usd=0), 3, day=1, final=True)
    assert window.nano_usd == 90


def test_a_running_call_holds_its_place_until_it_ends() -> None:
    asked, window = door(concurrency=1)
    asked.ask("a", ONE, 0)
    assert asked.ask("b", ONE, 10 * WINDOW_S).wait_s == CONCURRENCY_WAIT_S
    window.change("a", ONE, 10 * WINDOW_S, day=0, final=True)
    assert asked.ask("b", ONE, 10 * WINDOW_S).allowed


def test_a_share_is_never_without_limit_and_never_nothing() -> None:
    assert Limits(60, 1000, concurrency=7).share(2) == Limits(30, 500, concurrency=3)
    assert Limits(1, None).share(3) == Limits(1, None)
    assert Limits(60, 10).within(Limits(50, None, 7)) == Limits(50, 10, 7)


@given(st.integers(0, 10_000))
def test_no_window_sees_more_than_the_limit_however_late_calls_arrive(seed: int) -> None:
    """A call may arrive up to the margin later than it was let through."""
    rng = random.Random(seed)
    asked, _ = door(requests=5, tokens=50)
    now, passed = 0.0, []
    for at in range(120):
        now += rng.expovariate(0.5)
        tokens = rng.randint(0, 30)
        decision = asked.ask(str(at), Amounts(1, tokens), now)
        if decision.allowed:
            passed.append((now + rng.uniform(0, COUNTED_S - WINDOW_S), tokens))
        else:
            assert decision.wait_s is not None
            assert 0 < decision.wait_s <= COUNTED_S + SLICE_S
    for began, _ in passed:
        inside = [tokens for moment, tokens in passed if began <= moment < began + WINDOW_S]
        assert len(inside) <= 5
        assert sum(inside) <= 50


def test_what_is_reserved_is_the_prompt_and_what_answers_usually_take_never_more_than_asked_for() -> None:
    told = {"prompt_tokens": 10, "choices": 2, "expected": 100}
    of = [Scope("", Limits(tokens=50)), Scope("tenant:a", Limits(output_tokens=30))]
    assert estimate(**told, max_tokens=7, scopes=of) == Amounts(1, 10, 14)
    assert estimate(**told, max_tokens=1000, scopes=of) == Amounts(1, 10, 200)
    assert estimate(**told, max_tokens=None, scopes=()) == Amounts(1, 10, 200)
    assert estimate(**told, max_tokens=None, scopes=of[:1]) == Amounts(1, 10, 40)
    assert estimate(**told, max_tokens=None, scopes=of) == Amounts(1, 10, 30)
    assert tokens_of(len("中文".encode())) == 2


def test_a_call_weighs_the_share_it_takes_of_the_limit_it_burdens_most() -> None:
    assert Limits(10, 1000).weight(Amounts(1, 400, 100)) == 0.5
    assert Limits(10, 1000).weight(Amounts(1, 1)) == 0.1
    assert Limits().weight(Amounts(1, 1)) == 0
