"""Nothing leaves the site unless a router's stamp says that it may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from services.cloud_proxy.egress import admit
from services.cloud_proxy.provider import Provider
from services.cloud_proxy.route import Route
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.spend import Tariff
from spillway import v1
from spillway.errors import PolicyBlocked


def stamp(
    residency: v1.Residency.ValueType,
    *regions: str,
    sensitivity: v1.Sensitivity.ValueType = v1.SENSITIVITY_UNSPECIFIED,
    days: int | None = None,
) -> v1.PolicyStamp:
    data_policy = v1.DataPolicy(residency=residency, regions=regions, sensitivity=sensitivity, max_retention_days=days)
    return v1.PolicyStamp(router="router", data_policy=data_policy)


def ask(told: v1.PolicyStamp | None, *, model: Mapping[str, Any] | None = None, **provider: Any) -> None:
    settings = ProviderSettings.model_validate(
        {"name": "openai", "region": "us", "models": [{"name": "m", **(model or {})}], **provider}
    )
    nobody = cast("Provider", None)  # the gate is before the provider
    admit(told, Route("openai/m", settings, settings.models[0], nobody, Tariff("m", settings.base_url)))


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
        (stamp(v1.RESIDENCY_ANY, days=3650), "for an unknown time"),
    ],
)
def test_in_doubt_it_stays(told: v1.PolicyStamp | None, why: str) -> None:
    with pytest.raises(PolicyBlocked, match=why):
        ask(told)


@pytest.mark.parametrize(("kept", "goes"), [(0, True), (30, True), (31, False)])
def test_nothing_goes_where_it_is_kept_for_longer_than_the_stamp_says(kept: int, goes: bool) -> None:
    ask(stamp(v1.RESIDENCY_ANY), retention_days=kept)
    if goes:
        ask(stamp(v1.RESIDENCY_ANY, days=30), retention_days=kept)
    else:
        with pytest.raises(PolicyBlocked, match="30 days at most"):
            ask(stamp(v1.RESIDENCY_ANY, days=30), retention_days=kept)


def test_what_a_model_declares_goes_before_what_its_provider_does() -> None:
    ask(stamp(v1.RESIDENCY_REGIONS, "eu"), model={"region": "eu"})
    with pytest.raises(PolicyBlocked, match="region eu"):
        ask(stamp(v1.RESIDENCY_REGIONS, "us"), model={"region": "eu"})
    ask(stamp(v1.RESIDENCY_ANY, days=0), model={"retention_days": 0}, retention_days=30)
    with pytest.raises(PolicyBlocked, match="31 days"):
        ask(stamp(v1.RESIDENCY_ANY, days=30), model={"retention_days": 31}, retention_days=0)
    secret = stamp(v1.RESIDENCY_ANY, sensitivity=v1.SENSITIVITY_RESTRICTED)
    ask(secret, model={"max_sensitivity": "restricted"}, max_sensitivity="public")
    with pytest.raises(PolicyBlocked, match="public at most"):
        ask(secret, model={"max_sensitivity": "public"}, max_sensitivity="restricted")
