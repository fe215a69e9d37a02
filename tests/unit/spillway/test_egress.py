"""The egress gate: what is combined only gets tighter, and in doubt content stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillway import v1
from spillway.egress import UNRESOLVED, DataPolicy, Residency, Sensitivity

REGIONS = ("eu", "us", "asia")
DAYS = st.none() | st.integers(0, 400)
POLICIES = st.builds(
    DataPolicy,
    st.sampled_from(list(Residency)),
    st.frozensets(st.sampled_from(REGIONS)),
    st.sampled_from(list(Sensitivity)),
    DAYS,
)
PLACES = st.tuples(st.sampled_from(REGIONS), st.sampled_from(list(Sensitivity)), DAYS)


@given(POLICIES, POLICIES, PLACES)
def test_what_two_policies_let_go_each_of_them_lets_go_once_it_is_resolved(
    one: DataPolicy, other: DataPolicy, place: tuple[str, Sensitivity, int | None]
) -> None:
    if one.tightened(other).objection(*place):
        return
    for each in (one, other):
        assert each.residency is Residency.UNSPECIFIED or not each.objection(*place)


@given(POLICIES, POLICIES, POLICIES, PLACES)
def test_in_which_order_policies_are_combined_does_not_matter(
    one: DataPolicy, two: DataPolicy, three: DataPolicy, place: tuple[str, Sensitivity, int | None]
) -> None:
    left, right = one.tightened(two).tightened(three), three.tightened(one.tightened(two))
    assert left.objection(*place) == right.objection(*place)
    assert left.max_retention_days == right.max_retention_days


@given(POLICIES, st.sampled_from(REGIONS), st.sampled_from(list(Sensitivity)))
def test_unknown_retention_is_never_within_a_bound(policy: DataPolicy, region: str, limit: Sensitivity) -> None:
    assert policy.objection(region, limit) or policy.max_retention_days is None


@given(POLICIES, PLACES, st.integers(0, 400))
def test_a_shorter_retention_is_never_worse(
    policy: DataPolicy, place: tuple[str, Sensitivity, int | None], less: int
) -> None:
    region, limit, days = place
    if days is not None and not policy.objection(*place):
        assert not policy.objection(region, limit, max(0, days - less))


@given(POLICIES)
def test_a_policy_is_read_back_as_it_was_told(policy: DataPolicy) -> None:
    told = v1.DataPolicy(
        residency=v1.Residency.ValueType(policy.residency),
        regions=policy.regions,
        sensitivity=v1.Sensitivity.ValueType(policy.sensitivity),
        max_retention_days=policy.max_retention_days,
    )
    assert DataPolicy.read(told) == policy


@pytest.mark.parametrize(
    ("bound", "days", "why"),
    [
        (None, None, ""),
        (None, 3650, ""),
        (0, 0, ""),
        (30, 30, ""),
        (30, 31, "at most; there it is kept 31 days"),
        (0, 1, "0 days at most"),
        (30, None, "for an unknown time"),
    ],
)
def test_an_objection_says_for_how_long_content_is_kept(bound: int | None, days: int | None, why: str) -> None:
    policy = DataPolicy(Residency.ANY, max_retention_days=bound)
    assert bool(policy.objection("us", Sensitivity.INTERNAL, days)) is bool(why)
    assert why in policy.objection("us", Sensitivity.INTERNAL, days)


def test_nothing_said_is_nothing_allowed() -> None:
    assert UNRESOLVED.objection("us", Sensitivity.RESTRICTED, 0)
