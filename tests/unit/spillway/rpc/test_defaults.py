"""What a key's requests get where they say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from spillway import v1
from spillway.rpc.defaults import _ENUMS, NONE, Defaults
from spillway.rpc.keys import KeyRing, hash_key
from spillway.settings import SettingsError

ALL = Defaults(
    model="mini",
    priority="background",
    category="complex",
    task="extract",
    labels=frozenset({"billing"}),
    delivery="committed",
    validation="preferred",
    strategy="cascade",
    failover="off",
    cache="use",
    context_policy="slide",
    residency="regions",
    regions=frozenset({"eu", "us"}),
    sensitivity="confidential",
    denied_targets=frozenset({"dear"}),
    judgements=frozenset({"polite"}),
    max_cost_usd=0.01,
)
FILLED = v1.RoutingPolicy(
    category=v1.CATEGORY_COMPLEX,
    task=v1.TASK_EXTRACT,
    labels=["billing"],
    delivery=v1.Delivery(mode=v1.DELIVERY_MODE_COMMITTED),
    validation=v1.VALIDATION_PREFERRED,
    strategy=v1.STRATEGY_CASCADE,
    failover=v1.FAILOVER_OFF,
    cache=v1.CACHE_MODE_USE,
    context_policy=v1.CONTEXT_POLICY_SLIDE,
    data_policy=v1.DataPolicy(
        residency=v1.RESIDENCY_REGIONS, regions=["eu", "us"], sensitivity=v1.SENSITIVITY_CONFIDENTIAL
    ),
    denied_targets=["dear"],
    judgements=["polite"],
    max_cost_nano_usd=10_000_000,
)


def filled(policy: v1.RoutingPolicy, defaults: Defaults = ALL) -> v1.RoutingPolicy:
    for _ in range(2):  # once more changes nothing
        defaults.fill(v1.GenerationSpec(), policy)
    return policy


def test_a_request_that_says_nothing_gets_all_of_them() -> None:
    spec = v1.GenerationSpec()
    ALL.fill(spec, v1.RoutingPolicy())
    assert spec == v1.GenerationSpec(model="mini", priority=v1.PRIORITY_BACKGROUND)
    assert filled(v1.RoutingPolicy()) == FILLED


def test_a_key_without_defaults_changes_nothing() -> None:
    assert filled(v1.RoutingPolicy(), NONE) == v1.RoutingPolicy() == filled(v1.RoutingPolicy(), Defaults())


def test_the_callers_own_words_win() -> None:
    said = v1.RoutingPolicy(
        category=v1.CATEGORY_ROUTINE,
        task=v1.TASK_CHAT,
        delivery=v1.Delivery(mode=v1.DELIVERY_MODE_LIVE),
        validation=v1.VALIDATION_OFF,
        strategy=v1.STRATEGY_DIRECT,
        failover=v1.FAILOVER_NEXT,
        cache=v1.CACHE_MODE_OFF,
        context_policy=v1.CONTEXT_POLICY_REFUSE,
    )
    expected = v1.RoutingPolicy()
    expected.CopyFrom(FILLED)
    expected.MergeFrom(said)
    assert filled(said) == expected
    spec = v1.GenerationSpec(model="big", priority=v1.PRIORITY_INTERACTIVE)
    ALL.fill(spec, v1.RoutingPolicy())
    assert spec == v1.GenerationSpec(model="big", priority=v1.PRIORITY_INTERACTIVE)


def test_who_wants_records_has_said_how_the_answer_is_delivered() -> None:
    asked = v1.RoutingPolicy(delivery=v1.Delivery(records=True))
    assert filled(asked, Defaults(delivery="live")) == asked


@pytest.mark.parametrize(("said", "held"), [(None, 30), (90, 30), (0, 0)])
def test_the_shorter_retention_of_key_and_caller_holds(said: int | None, held: int) -> None:
    policy = v1.RoutingPolicy(data_policy=v1.DataPolicy(max_retention_days=said))
    assert filled(policy, Defaults(max_retention_days=30)).data_policy == v1.DataPolicy(max_retention_days=held)


@pytest.mark.parametrize(
    ("rule", "said", "held"),
    [
        ("any is tightened", v1.DataPolicy(residency=v1.RESIDENCY_ANY), FILLED.data_policy),
        (
            "regions are those of both",
            v1.DataPolicy(residency=v1.RESIDENCY_REGIONS, regions=["eu", "asia"]),
            v1.DataPolicy(residency=v1.RESIDENCY_REGIONS, regions=["eu"], sensitivity=v1.SENSITIVITY_CONFIDENTIAL),
        ),
        (
            "what is tighter stays",
            v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY, sensitivity=v1.SENSITIVITY_RESTRICTED),
            v1.DataPolicy(
                residency=v1.RESIDENCY_LOCAL_ONLY, regions=["eu", "us"], sensitivity=v1.SENSITIVITY_RESTRICTED
            ),
        ),
    ],
)
def test_a_caller_only_tightens_where_content_may_go(rule: str, said: v1.DataPolicy, held: v1.DataPolicy) -> None:
    assert filled(v1.RoutingPolicy(data_policy=said)).data_policy == held, rule


def test_the_lower_cost_cap_holds_and_denials_and_labels_add_up() -> None:
    assert filled(v1.RoutingPolicy(max_cost_nano_usd=5)).max_cost_nano_usd == 5
    assert filled(v1.RoutingPolicy(max_cost_nano_usd=10**12)).max_cost_nano_usd == 10_000_000
    both = filled(v1.RoutingPolicy(labels=["health"], denied_targets=["local"]))
    assert (list(both.labels), list(both.denied_targets)) == (["health", "billing"], ["local", "dear"])


@pytest.mark.parametrize("field", _ENUMS)
def test_every_word_of_the_contract_can_be_a_default(field: str) -> None:
    names = _ENUMS[field].keys()
    prefix = names[0].removesuffix("UNSPECIFIED")
    words = [name.removeprefix(prefix).lower() for name in names[1:]]
    literal, _ = get_args(Defaults.model_fields[field].annotation)
    assert list(get_args(literal)) == words


@pytest.mark.parametrize(
    ("defaults", "path"),
    [
        ("{task: guess}", "keys[0].defaults.task: "),
        ("{tasks: chat}", "keys[0].defaults.tasks: unknown setting"),
        ("{max_cost_usd: -1}", "keys[0].defaults.max_cost_usd: "),
        ("{labels: health}", "keys[0].defaults.labels: "),
        ("{residency: any, regions: [eu]}", "keys[0].defaults: Value error, regions do not go with residency any"),
    ],
)
def test_a_wrong_default_is_refused_with_its_path(tmp_path: Path, defaults: str, path: str) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys: [{{name: a, sha256: {hash_key('a')}, tenant: t, defaults: {defaults}}}]")
    with pytest.raises(SettingsError) as caught:
        KeyRing.read(keys)
    assert f"{keys}.{path}" in str(caught.value)


def test_an_embedding_gets_all_but_the_model_which_is_one_that_generates() -> None:
    spec, policy = v1.EmbeddingSpec(), v1.RoutingPolicy()
    ALL.fill(spec, policy)
    assert policy == FILLED
    assert spec == v1.EmbeddingSpec(priority=v1.PRIORITY_BACKGROUND)
