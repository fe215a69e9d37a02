"""Who has room for a request, by what is told of its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.router.facts import Facts
from services.router.plan import Plan
from services.router.policy import Policy
from services.router.quota_watch import read_quota
from services.router.quotas import Allowance, Quota, Quotas
from services.router.target import Target
from spillway import v1
from spillway.egress import DataPolicy, Residency, Sensitivity

OPEN = DataPolicy(Residency.ANY, frozenset(), Sensitivity.INTERNAL)
PLAIN = Facts(data_policy=OPEN, counted_tokens=100)
FIRST, SECOND, THIRD = (Target(name, "cloud", "proxy:1", name, "eu") for name in ("a/one", "b/two", "c/three"))
POLICY = Policy(name="clouds", data_policy=OPEN, order=("a/one", "b/two", "c/three"))
NOW = 1000.0


def told(name: str = "requests_per_minute", remaining: int | None = 0, free_in_s: float | None = None) -> Quota:
    free_at = None if free_in_s is None else NOW + free_in_s
    return Quota((Allowance(name, 500, remaining, free_at),))


def plan(quotas: dict[str, Quota], facts: Facts = PLAIN, now: float = NOW, policy: Policy = POLICY) -> Plan:
    return policy.decide(facts, (FIRST, SECOND, THIRD), quotas=quotas, now=now)


def order(quotas: dict[str, Quota], facts: Facts = PLAIN, now: float = NOW) -> list[str]:
    return [candidate.target.name for candidate in plan(quotas, facts, now).taken]


FULL = told(free_in_s=12.3)
DECLARED = ["a/one", "b/two", "c/three"]
FIRST_LAST = ["b/two", "c/three", "a/one"]


@pytest.mark.parametrize(
    ("rule", "quota", "expected"),
    [
        ("no request is left", told(), FIRST_LAST),
        ("one request is left", told(remaining=1), DECLARED),
        ("nobody may call just now", told("concurrency"), FIRST_LAST),
        ("fewer tokens are left than the prompt has", told("tokens_per_minute", 99), FIRST_LAST),
        ("as many tokens are left as the prompt has", told("tokens_per_minute", 100), DECLARED),
        ("fewer input tokens are left than the prompt has", told("input_tokens_per_minute", 99), FIRST_LAST),
        ("few output tokens are left, and the answer's are not known", told("output_tokens_per_minute", 1), DECLARED),
        ("no output token is left", told("output_tokens_per_minute"), FIRST_LAST),
        ("the day's money is spent", told("nano_usd_per_day"), FIRST_LAST),
        ("a limit that is not known by name is used up", told("images_per_minute"), FIRST_LAST),
        ("what is left is unknown", told(remaining=None), DECLARED),
        ("nothing is limited", Quota(), DECLARED),
        ("it is closed", Quota(closed_until=NOW + 5, closed_why="PROVIDER_RATE_LIMITED"), FIRST_LAST),
        ("it was closed", Quota(closed_until=NOW), DECLARED),
    ],
)
def test_who_has_no_room_is_asked_after_those_who_have(rule: str, quota: Quota, expected: list[str]) -> None:
    assert order({"a/one": quota}) == expected, rule


def test_where_nobody_has_room_all_are_tried_in_their_order() -> None:
    assert order(dict.fromkeys(DECLARED, FULL)) == DECLARED


def test_a_target_of_which_nothing_is_told_has_room() -> None:
    assert order({"a/one": FULL, "b/two": FULL}) == ["c/three", "a/one", "b/two"]


def test_quotas_take_no_target_out_of_a_plan() -> None:
    assert not plan(dict.fromkeys(DECLARED, FULL)).left_out


def test_without_failover_the_one_that_has_room_is_asked() -> None:
    assert order({"a/one": FULL}, replace(PLAIN, failover=False)) == ["b/two"]


def test_the_plan_says_who_would_have_come_first_and_what_it_lacks() -> None:
    found = plan({"a/one": FULL})
    assert found.reason.endswith("b/two: place 2 in the order of policy clouds, as a/one has no room")
    assert found.taken[-1].reasons == (
        "place 1 in the order of policy clouds, though it has no room: "
        "0 of 500 requests per minute left, for 13 s more",
    )
    assert plan({"b/two": FULL}).reason.endswith("a/one: place 1 in the order of policy clouds")
    assert (
        "99 of 500 tokens per minute left for about 100 tokens of the prompt"
        in (plan({"a/one": told("tokens_per_minute", 99)}).taken[-1].reasons[0])
    )
    shut = Quota(closed_until=NOW + 5, closed_why="PROVIDER_AUTH_FAILED")
    assert plan({"a/one": shut}).taken[-1].reasons[0].endswith("closed for 5 s more: PROVIDER_AUTH_FAILED")


def test_what_was_told_holds_until_something_else_is() -> None:
    assert order({"a/one": told(free_in_s=30)}, now=NOW + 31) == FIRST_LAST  # others may have taken what became free
    assert "requests per minute left" in plan({"a/one": told(free_in_s=30)}, now=NOW + 31).taken[-1].reasons[0]


def test_who_has_room_is_spread_among_replicas_and_who_has_none_comes_after_all_of_them() -> None:
    policy = Policy(data_policy=OPEN)
    same = [replace(target, model="m") for target in (FIRST, SECOND, THIRD)]
    found = policy.decide(replace(PLAIN, session="s"), same, quotas={"a/one": FULL, "c/three": FULL}, now=NOW)
    assert found.taken[0].target.name == "b/two"


def test_a_quota_is_read_at_the_time_it_is_told() -> None:
    said = v1.Quota(target="a/one", closed_ms=1500, closed_why="PROVIDER_RATE_LIMITED")
    said.limits.add(name="requests_per_minute", limit=500, remaining=7, free_in_ms=250)
    said.limits.add(name="tokens_per_minute", limit=9000)
    said.limits.add(name="requests_per_minute", limit=5, remaining=0, scope="tenant:other")
    assert read_quota(said, NOW) == Quota(
        (Allowance("requests_per_minute", 500, 7, NOW + 0.25), Allowance("tokens_per_minute", 9000, None)),
        NOW + 1.5,
        "PROVIDER_RATE_LIMITED",
    )


def test_what_is_lost_is_unknown() -> None:
    quotas = Quotas()
    quotas.hear("a/one", FULL)
    assert quotas.snapshot() == {"a/one": FULL}
    quotas.lose([FIRST, SECOND])
    assert quotas.snapshot() == {}
