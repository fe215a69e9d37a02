"""Nothing leaves the site unless a router's stamp says that it may."""

from __future__ import annotations

import pytest

from services.cloud_proxy.egress import admit
from spillway import v1
from spillway.errors import PolicyBlocked


def stamp(
    residency: v1.Residency.ValueType, *regions: str, sensitivity: v1.Sensitivity.ValueType = v1.SENSITIVITY_UNSPECIFIED
) -> v1.PolicyStamp:
    return v1.PolicyStamp(
        router="router", data_policy=v1.DataPolicy(residency=residency, regions=regions, sensitivity=sensitivity)
    )


def ask(told: v1.PolicyStamp | None) -> None:
    admit(told, provider="openai", region="us", max_sensitivity="internal")


@pytest.mark.parametrize(
    "told",
    [
        stamp(v1.RESIDENCY_ANY),
        stamp(v1.RESIDENCY_REGIONS, "eu", "us"),
        stamp(v1.RESIDENCY_ANY, sensitivity=v1.SENSITIVITY_INTERNAL),
    ],
)
def test_what_the_stamp_allows_may_go(told: v1.PolicyStamp) -> None:
    ask(told)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (None, "only a router"),
        (v1.PolicyStamp(router="router"), "no data policy was resolved"),
        (stamp(v1.RESIDENCY_UNSPECIFIED), "no data policy was resolved"),
        (stamp(v1.RESIDENCY_LOCAL_ONLY), "on the site"),
        (stamp(v1.RESIDENCY_REGIONS, "eu"), "region us"),
        (stamp(v1.RESIDENCY_REGIONS), "region us"),
        (stamp(9), "on the site"),  # type: ignore[arg-type]
        (stamp(v1.RESIDENCY_ANY, sensitivity=v1.SENSITIVITY_CONFIDENTIAL), "stays on the site"),
        (stamp(v1.RESIDENCY_ANY, sensitivity=v1.SENSITIVITY_RESTRICTED), "stays on the site"),
    ],
)
def test_in_doubt_it_stays(told: v1.PolicyStamp | None, why: str) -> None:
    with pytest.raises(PolicyBlocked, match=why):
        ask(told)
