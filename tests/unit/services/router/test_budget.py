"""What is left of a tenant's budget, and what follows from that for a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.breaker import Standing, State
from services.router.budget import DAY_S, Budget, Purse, Spent, purse
from services.router.facts import Category, Facts
from services.router.plan import Plan
from services.router.policy import Policy
from services.router.policy_document import read
from services.router.refusal import refusal
from services.router.spend import charge
from services.router.target import Price, Target
from spillway import v1
from spillway.egress import DataPolicy, Residency, Sensitivity
from spillway.errors import CostCap

LOCAL = Target("local", "local", "a:1", price=Price(0, 0))
CLOUD = Target("cloud", "cloud", "b:1", region="us", tier="large", price=Price(1000, 2000))
UNPRICED = Target("unpriced", "cloud", "c:1", region="us", tier="large")
OPEN = DataPolicy(Residency.ANY, frozenset(), Sensitivity.INTERNAL)
PLAIN = Facts(data_policy=OPEN, counted_tokens=100, max_tokens=100)
COST = 100 * 1000 + 100 * 2000
BUDGET = Budget(day=10 * COST, month=100 * COST)
NOTHING = Spent(0, 0, 0, DAY_S, 10 * DAY_S)
ALL_OF_IT = Spent(10 * COST, 10 * COST, 0, 3600.0, 10 * DAY_S)

amounts = st.integers(0, 10**15)
spents = st.builds(Spent, amounts, amounts, amounts, st.floats(0, DAY_S), st.floats(0, 31 * DAY_S))
budgets = st.builds(Budget, st.none() | amounts, st.none() | amounts)


def decide(spent: Spent | None, *targets: Target, budget: Budget = BUDGET, facts: Facts = PLAIN) -> Plan:
    policy = Policy(data_policy=OPEN, budget=budget)
    return policy.decide(replace(facts, purse=purse(budget, spent, 0.0)), targets or (LOCAL, CLOUD))


def taken(plan: Plan) -> list[str]:
    return [candidate.target.name for candidate in plan.taken]


@given(budgets, spents, st.integers(1, 9), amounts, st.floats(0, 100 * DAY_S))
def test_what_all_routers_have_alone_is_never_more_than_what_they_have_together(
    budget: Budget, spent: Spent, routers: int, cost: int, now: float
) -> None:
    together = purse(budget, spent, now).periods
    for whole, share in zip(together, purse(budget, spent, now, routers=routers).periods, strict=True):
        assert 0 <= share.left * routers <= whole.left <= whole.cap
    less = purse(budget, spent, now, routers=routers, alone=cost).periods
    for before, after in zip(purse(budget, spent, now, routers=routers).periods, less, strict=True):
        assert after.left == max(0, before.left - cost)


@given(budgets, spents, amounts)
def test_what_fits_leaves_no_period_overspent(budget: Budget, spent: Spent, cost: int) -> None:
    left = purse(budget, spent, -1.0)
    if not left.short(cost):
        assert budget.day is None or spent.day + spent.held + cost <= budget.day
        assert budget.month is None or spent.month + spent.held + cost <= budget.month
    assert bool(left.objection(cost)) == bool(left.short(cost))


def test_a_period_that_is_over_begins_anew_and_what_is_held_stays_held() -> None:
    spent = Spent(5, 50, 3, day_ends=10.0, month_ends=20.0)
    assert spent.at(9.0) == spent
    assert spent.at(10.0) == Spent(0, 50, 3, 10.0 + DAY_S, 20.0)
    assert (spent.at(30.0).day, spent.at(30.0).month, spent.at(30.0).held) == (0, 0, 3)


def test_a_router_that_never_heard_of_a_tenant_has_nothing_for_it() -> None:
    plan = decide(None)
    assert taken(plan) == ["local"]
    assert plan.left_out[0].reasons[0].startswith("the tenant's budget cannot be counted now: 0 USD of 0.003 USD left")


def test_when_it_is_spent_what_costs_nothing_answers() -> None:
    assert taken(decide(NOTHING)) == ["local", "cloud"]
    plan = decide(ALL_OF_IT)
    assert taken(plan) == ["local"]
    assert plan.left_out[0].reasons == (
        "the tenant's budget is spent: 0 USD of 0.003 USD left this day, about 0.0003 USD needed",
    )


def test_an_estimate_that_does_not_fit_what_is_left_is_left_out() -> None:
    assert taken(decide(replace(ALL_OF_IT, day=9 * COST))) == ["local", "cloud"]
    assert taken(decide(replace(ALL_OF_IT, day=9 * COST + 1))) == ["local"]


def test_what_is_held_is_not_there_to_spend() -> None:
    assert taken(decide(replace(NOTHING, held=10 * COST))) == ["local"]


def test_with_refuse_a_request_fails_where_what_costs_would_come_first() -> None:
    strict = replace(BUDGET, refuse=True)
    assert taken(decide(ALL_OF_IT, budget=strict)) == ["local"]  # it would have answered anyway
    hard = replace(PLAIN, category=Category.COMPLEX)
    assert taken(decide(ALL_OF_IT, facts=hard)) == ["local"]
    assert taken(decide(NOTHING, budget=strict, facts=hard)) == ["cloud", "local"]
    error = refusal(decide(ALL_OF_IT, budget=strict, facts=hard))
    assert isinstance(error, CostCap)
    assert error.retry_after_s == 3600.0
    assert error.metadata == {
        "day_cap_nano_usd": "3000000",
        "day_left_nano_usd": "0",
        "month_cap_nano_usd": "30000000",
        "month_left_nano_usd": "27000000",
    }


def test_when_to_come_back_is_when_every_period_has_room() -> None:
    both = Purse(purse(BUDGET, replace(ALL_OF_IT, month=100 * COST), 0.0).periods)
    assert both.renews_s(COST) == 10 * DAY_S
    assert both.renews_s(11 * COST) is None  # never fits a day


def test_a_target_of_unknown_price_is_left_out_unless_it_is_allowed() -> None:
    plan = decide(NOTHING, LOCAL, UNPRICED)
    assert taken(plan) == ["local"]
    assert plan.left_out[0].reasons == ("its price is unknown and the tenant has a budget",)
    lenient = replace(BUDGET, unpriced=True)
    assert taken(decide(NOTHING, LOCAL, UNPRICED, budget=lenient)) == ["local", "unpriced"]
    engine = replace(LOCAL, price=None)
    assert taken(decide(ALL_OF_IT, engine, UNPRICED, budget=lenient)) == ["local"]


def test_only_a_plan_that_may_cost_something_asks_what_is_left() -> None:
    policy = Policy(data_policy=OPEN, budget=BUDGET)
    at_home = replace(PLAIN, data_policy=DataPolicy(Residency.LOCAL_ONLY, frozenset(), Sensitivity.INTERNAL))
    assert policy.decide(PLAIN, [LOCAL, CLOUD]).spends
    assert not policy.decide(PLAIN, [LOCAL]).spends
    assert not policy.decide(at_home, [LOCAL, CLOUD]).spends
    assert not Policy(data_policy=OPEN).decide(PLAIN, [LOCAL, CLOUD]).spends
    # A prompt that fits nothing may be made to fit what costs.
    assert policy.decide(PLAIN, [replace(CLOUD, context_window=10)]).spends


DOCUMENT = """
targets: [{name: l, kind: local, address: "a:1"}]
policy: {budget: {usd_per_day: 5, usd_per_month: 100}}
policies:
  rich: {budget: {usd_per_day: 50, unknown_price: allow}}
  poor: {budget: {usd_per_day: 1, when_spent: refuse}}
  generous: {budget: {usd_per_month: 500, unknown_price: allow}}
tenants: {big: {use: rich}}
rules:
- {name: a, when: {labels: [poor]}, use: poor}
- {name: b, when: {labels: [generous]}, use: generous}
"""


@pytest.mark.parametrize(
    ("tenant", "label", "expected"),
    [
        ("any", "", Budget(5 * 10**9, 100 * 10**9)),
        ("any", "poor", Budget(10**9, 100 * 10**9, refuse=True)),
        ("any", "generous", Budget(5 * 10**9, 100 * 10**9)),
        ("big", "", Budget(50 * 10**9, unpriced=True)),
        ("big", "generous", Budget(50 * 10**9, 500 * 10**9, unpriced=True)),
    ],
)
def test_a_tenants_policy_replaces_the_budget_and_what_the_request_chooses_only_tightens_it(
    tenant: str, label: str, expected: Budget
) -> None:
    facts = Facts(tenant=tenant, labels=frozenset({label} - {""}))
    assert read(DOCUMENT).in_force("").read(facts)[1].budget == expected


def test_a_budget_without_a_cap_is_a_mistake_with_its_path() -> None:
    found = read("targets: [{name: l, kind: local, address: 'a:1'}]\npolicy: {budget: {when_spent: refuse}}")
    assert [finding.path for finding in found.findings] == ["policy.budget"]


def test_a_policy_whose_budget_leaves_targets_out_for_their_price_says_so() -> None:
    found = read(DOCUMENT).findings
    assert [(finding.path, finding.fatal) for finding in found] == [
        ("policy.budget", False),
        ("policies.poor.budget", False),
    ]
    assert "unknown price: l" in found[0].message


FAILED, ANSWERED, CANCELLED = (
    v1.ATTEMPT_OUTCOME_FAILED,
    v1.ATTEMPT_OUTCOME_ANSWERED,
    v1.ATTEMPT_OUTCOME_CANCELLED,
)


@pytest.mark.parametrize(
    ("rule", "record", "charged"),
    [
        ("a known cost is the charge", v1.Attempt(outcome=ANSWERED, prompt_tokens=1, cost_nano_usd=7), 7),
        ("an unknown one is the estimate", v1.Attempt(outcome=ANSWERED), 100),
        ("a target that never spoke costs nothing", v1.Attempt(outcome=FAILED, reason="TARGET_DOWN"), 0),
        ("unless it was left while silent", v1.Attempt(outcome=FAILED, reason="TARGET_TIMEOUT"), 100),
        ("one that broke off costs the estimate", v1.Attempt(outcome=FAILED, completion_tokens=5), 100),
        ("or what is known, where that is more", v1.Attempt(outcome=FAILED, cost_nano_usd=130), 130),
        ("a cancel is not free", v1.Attempt(outcome=CANCELLED), 100),
    ],
)
def test_what_an_attempt_is_charged(rule: str, record: v1.Attempt, charged: int) -> None:
    assert charge(record, 100) == charged, rule


@pytest.mark.parametrize("word", ["wait", "fail"])
def test_who_has_nothing_left_is_told_so_though_the_breaker_is_open_too(word: str) -> None:
    policy = Policy(data_policy=OPEN, budget=BUDGET, when_all_open=word)
    shut = {"cloud": Standing(State.OPEN, "3 failures in a row", 20.0, 0.0)}
    plan = policy.decide(PLAIN, [CLOUD], shut)
    assert plan.opens_in_s and plan.spends
    plan = policy.decide(replace(PLAIN, purse=purse(BUDGET, ALL_OF_IT, 0.0)), [CLOUD], shut)
    assert isinstance(refusal(plan), CostCap)
