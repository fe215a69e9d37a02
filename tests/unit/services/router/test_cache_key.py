"""The key of an answer: whatever could change the answer changes the key, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from services.router.cache_key import POLICY_LEFT_OUT, SPEC_LEFT_OUT, cache_key, epoch_of
from services.router.facts import ContextName, Delivery, Facts, StrategyName, Validation
from services.router.plan import PATIENCE, Plan
from services.router.target import Target
from spillway import v1
from spillway.egress import DataPolicy, Residency, Sensitivity
from spillway.rpc.call import Caller

OPEN = DataPolicy(Residency.ANY, frozenset(), Sensitivity.INTERNAL)
PLAN = Plan(
    Facts(data_policy=OPEN), (), (), Delivery.LIVE, Validation.OFF, StrategyName.DIRECT, PATIENCE, "ground", "1", ""
)
SPEC_COUNTS = {
    *("model", "adapter", "chat", "text", "tokens", "sampling", "stop", "constraint", "tools", "tool_choice"),
    *("reasoning_effort", "logprobs", "extra", "continuation"),
}
POLICY_COUNTS = {
    "category",
    "task",
    "labels",
    "allowed_targets",
    "denied_targets",
    "max_cost_nano_usd",
    "failover",
    "strategy",
    "confidence_threshold",
    "judgements",
    "samples",
    "redact",
}


def key(
    spec: v1.GenerationSpec | None = None,
    policy: v1.RoutingPolicy | None = None,
    plan: Plan = PLAN,
    tenant: str = "acme",
    epoch: bytes = b"e",
) -> str:
    return cache_key(spec or v1.GenerationSpec(), policy or v1.RoutingPolicy(), plan, Caller(tenant), epoch)


def leaves(message: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield, for every field however deep, its path and a copy of `message` in which it alone is set."""
    for field in message.DESCRIPTOR.fields:
        place = f"{path}.{field.name}".lstrip(".")
        entry = field.message_type is not None and field.message_type.GetOptions().map_entry
        if entry or field.message_type is None or field.message_type.full_name.startswith("google."):
            one = type(message)()
            fill(one, field)
            yield place, one
            continue
        for deeper, value in leaves(_instance(message, field), place):
            one = type(message)()
            if field.is_repeated:
                getattr(one, field.name).append(value)
            else:
                getattr(one, field.name).CopyFrom(value)
            yield deeper, one


def _instance(message: Any, field: FieldDescriptor) -> Any:
    one = type(message)()
    return getattr(one, field.name).add() if field.is_repeated else getattr(one, field.name)


def fill(message: Any, field: FieldDescriptor) -> None:
    """Set `field` of `message` to something that is not its default."""
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            key = field.message_type.fields_by_name["key"]
            text = key.cpp_type == FieldDescriptor.CPPTYPE_STRING
            getattr(message, field.name).update({"x": "x"} if text else {7: 1})
        else:
            getattr(message, field.name).update({"a": 1})
        return
    values: dict[int, Any] = {FieldDescriptor.CPPTYPE_STRING: "x", FieldDescriptor.CPPTYPE_BOOL: True}
    value = b"x" if field.type == FieldDescriptor.TYPE_BYTES else values.get(field.cpp_type, 1)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def test_every_field_of_a_spec_counts_or_is_left_out_by_name() -> None:
    fields = {field.name for field in v1.GenerationSpec.DESCRIPTOR.fields}
    assert fields == SPEC_COUNTS | SPEC_LEFT_OUT, "does the new field change the answer? Then it counts"
    found = list(leaves(v1.GenerationSpec()))
    assert len(found) > 40
    wrong = [path for path, spec in found if (key(spec) == key()) != (path.partition(".")[0] in SPEC_LEFT_OUT)]
    assert wrong == []
    keys = [key(spec) for path, spec in found if path.partition(".")[0] in SPEC_COUNTS]
    assert len(set(keys)) == len(keys)


def test_every_field_of_a_routing_policy_counts_or_is_left_out_by_name() -> None:
    fields = {field.name for field in v1.RoutingPolicy.DESCRIPTOR.fields}
    assert fields == POLICY_COUNTS | POLICY_LEFT_OUT, "does the new field change the answer? Then it counts"
    found = list(leaves(v1.RoutingPolicy()))
    wrong = [
        path for path, policy in found if (key(policy=policy) == key()) != (path.partition(".")[0] in POLICY_LEFT_OUT)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "other",
    [
        key(tenant="emca"),
        key(epoch=b"f"),
        key(plan=replace(PLAN, policy_revision="2")),
        key(plan=replace(PLAN, validation=Validation.REQUIRED)),
        key(plan=replace(PLAN, context=ContextName.SLIDE)),
        key(plan=replace(PLAN, judgements=("brief",))),
        key(plan=replace(PLAN, facts=Facts(data_policy=replace(OPEN, residency=Residency.LOCAL_ONLY)))),
        key(plan=replace(PLAN, facts=Facts(data_policy=replace(OPEN, sensitivity=Sensitivity.RESTRICTED)))),
        key(plan=replace(PLAN, facts=Facts(data_policy=DataPolicy(Residency.REGIONS, frozenset({"eu"}))))),
    ],
    ids=["tenant", "epoch", "revision", "validation", "context", "judgements", "residency", "sensitivity", "regions"],
)
def test_what_is_in_force_counts(other: str) -> None:
    assert other != key()


def test_the_delivery_does_not_count() -> None:
    assert key(plan=replace(PLAN, delivery=Delivery.COMMITTED)) == key()


def test_nothing_passes_from_one_part_to_the_next() -> None:
    assert key(tenant="a", plan=replace(PLAN, policy_revision="bc")) != key(
        tenant="ab", plan=replace(PLAN, policy_revision="c")
    )


def test_the_order_of_sets_and_maps_does_not_count() -> None:
    forward, backward = v1.GenerationSpec(), v1.GenerationSpec()
    for at in range(50):
        forward.sampling.logit_bias[at] = at
        forward.extra.update({f"name {at}": {"x": at}})
    for at in reversed(range(50)):
        backward.sampling.logit_bias[at] = at
        backward.extra.update({f"name {at}": {"x": at}})
    assert key(forward) == key(backward)
    assert key(policy=v1.RoutingPolicy(denied_targets=["a", "b", "a"])) == key(
        policy=v1.RoutingPolicy(denied_targets=["b", "a"])
    )


def test_absent_is_not_zero_in_a_key() -> None:
    assert key(v1.GenerationSpec(sampling=v1.Sampling(temperature=0))) != key(v1.GenerationSpec(sampling=v1.Sampling()))


def test_another_model_behind_a_target_is_another_epoch() -> None:
    local = Target("local", "local", "a:1", "small", quantization_bits=16)
    cloud = Target("cloud", "cloud", "b:1", "big")
    assert epoch_of([local, cloud]) == epoch_of([cloud, replace(local, address="c:1")])
    assert epoch_of([local]) != epoch_of([replace(local, model="other")])
    assert epoch_of([local]) != epoch_of([replace(local, quantization_bits=4)])
