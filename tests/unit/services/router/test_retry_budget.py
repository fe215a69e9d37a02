"""Retries and hedges keep to a share of the requests of all routers, which nobody need be asked for."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from services.router.breaker_settings import RetryBudgetSettings
from services.router.retry_budget import RetryBudget


def test_a_router_without_requests_may_retry_as_often_as_the_floor_says() -> None:
    budget = RetryBudget(RetryBudgetSettings(floor=3))
    assert [budget.take(0.0) for _ in range(5)] == [True, True, True, False, False]
    assert budget.take(11)
    assert repr(budget) == "<RetryBudget 1 of 3 for 0 requests>"


def test_every_ten_requests_allow_one_retry() -> None:
    budget = RetryBudget(RetryBudgetSettings(floor=0))
    for _ in range(29):
        budget.request(0)
    assert [budget.take(0) for _ in range(3)] == [True, True, False]
    budget.request(0)
    assert budget.take(0)


def test_the_floor_is_shared_by_the_routers_seen_or_those_the_settings_name() -> None:
    assert RetryBudget(RetryBudgetSettings(floor=10), lambda: 5).allowed == 2
    assert RetryBudget(RetryBudgetSettings(floor=10, routers=10), lambda: 5).allowed == 1


@given(st.integers(0, 10_000))
def test_all_routers_together_never_retry_more_than_the_share_and_the_floor(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 6)
    settings = RetryBudgetSettings(floor=rng.randint(0, 8))
    budgets = [RetryBudget(settings, lambda: count) for _ in range(count)]
    now = 0.0
    requests: list[float] = []
    retried: list[float] = []
    for _ in range(500):
        now += rng.expovariate(20)
        budget = rng.choice(budgets[: rng.randint(1, count)])
        if rng.random() < 0.5:
            budget.request(now)
            requests.append(now)
        elif budget.take(now):
            retried.append(now)
            recent = sum(moment > now - 2 * settings.window_s for moment in requests)
            # a retry counts for 11/12 of the window at least, and may outlive the requests that paid for it
            lately = sum(moment > now - settings.window_s * 11 / 12 for moment in retried)
            assert lately <= settings.share * recent + settings.floor
