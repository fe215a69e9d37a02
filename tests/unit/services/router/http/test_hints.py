from __future__ import annotations

import pytest

from services.router.http.hints import deadline_s, priority, read_policy, repair
from spillway import v1
from spillway.errors import RequestInvalid


@pytest.mark.parametrize(
    ("name", "value", "policy"),
    [
        ("category", "safety-critical", v1.RoutingPolicy(category=v1.CATEGORY_SAFETY_CRITICAL)),
        ("task", "Summarize", v1.RoutingPolicy(task=v1.TASK_SUMMARIZE)),
        ("labels", "a, b", v1.RoutingPolicy(labels=["a", "b"])),
        ("residency", "local_only", v1.RoutingPolicy(data_policy=v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY))),
        (
            "regions",
            "eu,us",
            v1.RoutingPolicy(data_policy=v1.DataPolicy(residency=v1.RESIDENCY_REGIONS, regions=["eu", "us"])),
        ),
        (
            "sensitivity",
            "restricted",
            v1.RoutingPolicy(data_policy=v1.DataPolicy(sensitivity=v1.SENSITIVITY_RESTRICTED)),
        ),
        ("max-retention-days", "0", v1.RoutingPolicy(data_policy=v1.DataPolicy(max_retention_days=0))),
        ("max-retention-days", "30.9", v1.RoutingPolicy(data_policy=v1.DataPolicy(max_retention_days=30))),
        ("allowed-targets", "local", v1.RoutingPolicy(allowed_targets=["local"])),
        ("denied-targets", "a:1, b/c", v1.RoutingPolicy(denied_targets=["a:1", "b/c"])),
        ("max-cost-usd", "0.002", v1.RoutingPolicy(max_cost_nano_usd=2_000_000)),
        ("failover", "off", v1.RoutingPolicy(failover=v1.FAILOVER_OFF)),
        ("delivery", "committed", v1.RoutingPolicy(delivery=v1.Delivery(mode=v1.DELIVERY_MODE_COMMITTED))),
        ("probe-tokens", "16", v1.RoutingPolicy(delivery=v1.Delivery(probe_tokens=16))),
        ("records", "true", v1.RoutingPolicy(delivery=v1.Delivery(records=True))),
        ("records", "false", v1.RoutingPolicy(delivery=v1.Delivery(records=False))),
        ("validation", "preferred", v1.RoutingPolicy(validation=v1.VALIDATION_PREFERRED)),
        ("strategy", "cascade", v1.RoutingPolicy(strategy=v1.STRATEGY_CASCADE)),
        ("judgements", "brief, polite", v1.RoutingPolicy(judgements=["brief", "polite"])),
        ("repair", "forbidden", v1.RoutingPolicy()),  # of the constraint
        ("inspect", "true", v1.RoutingPolicy(inspect_input=True)),
        ("inspect", "false", v1.RoutingPolicy()),
        ("redact", "true", v1.RoutingPolicy(redact=True)),
        ("cache", "use", v1.RoutingPolicy(cache=v1.CACHE_MODE_USE)),
        ("deadline-ms", "250", v1.RoutingPolicy()),
        ("session-id", "s", v1.RoutingPolicy()),
        ("tenant", "acme", v1.RoutingPolicy()),
    ],
)
def test_a_hint_becomes_a_wish_of_the_routing(name: str, value: str, policy: v1.RoutingPolicy) -> None:
    assert read_policy({"host": "x", f"x-spillway-{name}": value}) == policy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("category", "urgent"),
        ("residency", "local_only, any"),  # came twice
        ("residency", ""),
        ("regions", "eu,,us"),
        ("max-cost-usd", "-1"),
        ("max-retention-days", "never"),
        ("max-cost-usd", "nan"),
        ("probe-tokens", "many"),
        ("inspect", "yes please"),
        ("residancy", "local_only"),
        ("accepts-restart", "true"),  # a stream of text cannot take anything back
    ],
)
def test_a_bad_hint_is_named(name: str, value: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        read_policy({f"x-spillway-{name}": value})
    assert [field.field for field in caught.value.fields] == [f"x-spillway-{name}"]


def test_regions_bind_unless_something_tighter_does() -> None:
    tight = read_policy({"x-spillway-regions": "eu", "x-spillway-residency": "local_only"})
    assert tight.data_policy.residency == v1.RESIDENCY_LOCAL_ONLY
    with pytest.raises(RequestInvalid, match="does not go with"):
        read_policy({"x-spillway-regions": "eu", "x-spillway-residency": "any"})


def test_a_deadline_is_in_milliseconds() -> None:
    assert deadline_s({"x-spillway-deadline-ms": "1500"}) == 1.5
    assert deadline_s({}) is None


def test_a_priority_is_a_word() -> None:
    assert priority({"x-spillway-priority": "background"}) == v1.PRIORITY_BACKGROUND
    assert priority({}) == v1.PRIORITY_UNSPECIFIED
    with pytest.raises(RequestInvalid):
        priority({"x-spillway-priority": "high"})


def test_repair_is_forbidden_of_json_that_is_asked_for() -> None:
    spec = v1.GenerationSpec(constraint=v1.OutputConstraint(json_object=True))
    repair({"x-spillway-repair": "forbidden"}, spec)
    assert spec.constraint == v1.OutputConstraint(json_object=True, repair=v1.REPAIR_FORBIDDEN)
    repair({}, v1.GenerationSpec())
    with pytest.raises(RequestInvalid, match="x-spillway-repair: goes with a response_format of JSON"):
        repair({"x-spillway-repair": "forbidden"}, v1.GenerationSpec())
    with pytest.raises(RequestInvalid, match="is not one of allowed, forbidden"):
        repair({"x-spillway-repair": "never"}, spec)
