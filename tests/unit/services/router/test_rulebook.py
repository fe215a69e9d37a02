"""Which policy a request gets: tenant, rules, aliases, and that what callers say never loosens anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.router.facts import Category, Delivery, Facts, Validation
from services.router.inspection import Inspection
from services.router.plan import Plan
from services.router.policy_document import opened
from services.router.policy_settings import PolicyDocument
from services.router.rulebook import Rulebook
from spillway.egress import UNRESOLVED, DataPolicy, Residency, Sensitivity

TARGETS = [
    {
        "name": "local",
        "kind": "local",
        "address": "a:1",
        "capabilities": ["json_schema"],
        "price": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0},
    },
    {"name": "mid", "kind": "local", "address": "b:1", "tier": "large"},
    {
        "name": "openai/big",
        "kind": "cloud",
        "address": "c:1",
        "model": "openai/big",
        "region": "us",
        "price": {"input_usd_per_mtok": 10, "output_usd_per_mtok": 20},
    },
]
PLAIN = Facts(prompt_bytes=30)


def book(**parts: Any) -> Rulebook:
    return opened(PolicyDocument.model_validate({"targets": TARGETS, **parts})).in_force("")


def plan(book: Rulebook, facts: Facts = PLAIN) -> Plan:
    facts, policy = book.read(facts)
    return policy.decide(facts, book.targets)


def names(plan: Plan) -> list[str]:
    return [candidate.target.name for candidate in plan.taken]


BULK = {"policies": {"bulk": {"order": ["small", "openai/big"]}}}


@pytest.mark.parametrize(
    ("when", "matching", "not_matching"),
    [
        ({"tasks": ["classify", "tag"]}, replace(PLAIN, task="tag"), replace(PLAIN, task="code")),
        ({"categories": ["complex"]}, replace(PLAIN, category=Category.COMPLEX), PLAIN),
        ({"labels": ["nightly"]}, replace(PLAIN, labels=frozenset({"nightly", "eu"})), PLAIN),
        ({"tenants": ["acme"]}, replace(PLAIN, tenant="acme"), replace(PLAIN, tenant="other")),
        ({"models": ["mid"]}, replace(PLAIN, model="mid"), PLAIN),
        ({"priority": "background"}, replace(PLAIN, priority="background"), replace(PLAIN, priority="interactive")),
        (
            {"sensitivity_at_least": "confidential"},
            replace(PLAIN, data_policy=DataPolicy(sensitivity=Sensitivity.RESTRICTED)),
            PLAIN,
        ),
        ({"needs": ["json_schema"]}, replace(PLAIN, needs=frozenset({"json_schema"})), PLAIN),
        ({"json": True}, replace(PLAIN, json=True), PLAIN),
        ({"prompt_tokens_over": 100}, replace(PLAIN, counted_tokens=101), replace(PLAIN, counted_tokens=100)),
        ({"prompt_tokens_up_to": 100}, replace(PLAIN, counted_tokens=100), replace(PLAIN, counted_tokens=101)),
        ({}, PLAIN, None),
    ],
)
def test_a_rule_is_matched_by_every_fact_it_names(when: dict[str, Any], matching: Facts, not_matching: Facts) -> None:
    rules = book(**BULK, rules=[{"name": "the rule", "when": when, "use": "bulk"}])
    assert plan(rules, matching).policy == "bulk"
    assert plan(rules, matching).reason.startswith("policy bulk by rule 'the rule'; ")
    if not_matching is not None:
        assert plan(rules, not_matching).policy == "ground"


def test_the_owners_default_sensitivity_counts_for_rules() -> None:
    rules = book(
        policy={"sensitivity": "confidential"},
        **BULK,
        rules=[{"name": "private", "when": {"sensitivity_at_least": "confidential"}, "use": "bulk"}],
    )
    assert plan(rules).policy == "bulk"


def test_the_first_rule_that_matches_decides() -> None:
    policies = {"one": {"order": ["mid"]}, "two": {"order": ["local"]}}
    rules = [{"name": "a", "use": "one"}, {"name": "b", "use": "two"}]
    assert names(plan(book(policies=policies, rules=rules))) == ["mid"]


def test_an_order_is_a_fallback_chain_of_targets_tiers_and_kinds() -> None:
    chain = {"order": ["mid", "small", "cloud"]}
    assert names(plan(book(policy=chain))) == ["mid", "local", "openai/big"]
    only = plan(book(policy={"order": ["small"]}))
    assert names(only) == ["local"]
    assert {out.left_out_by for out in only.left_out} == {"order"}


def test_an_alias_stands_for_a_model_a_policy_or_both() -> None:
    rules = book(**BULK, aliases={"gpt-4o": {"use": "bulk"}, "fast": {"model": "mid"}})
    assert names(plan(rules, replace(PLAIN, model="gpt-4o"))) == ["local", "openai/big"]
    assert names(plan(rules, replace(PLAIN, model="fast"))) == ["mid"]


def test_a_tenants_policy_replaces_the_ground_and_its_key_alone_says_whose_it_is() -> None:
    rules = book(
        policies={
            "eu": {"residency": "regions", "regions": ["eu"]},
            "trusted": {"cloud_sensitivity_limit": "restricted"},
        },
        tenants={"hospital": {"use": "eu"}, "lab": {"use": "trusted"}},
    )
    secret = DataPolicy(sensitivity=Sensitivity.CONFIDENTIAL)
    assert "openai/big" in names(plan(rules))
    assert "openai/big" not in names(plan(rules, replace(PLAIN, tenant="hospital")))
    assert "openai/big" in names(plan(rules, replace(PLAIN, tenant="lab", data_policy=secret)))
    assert "openai/big" not in names(plan(rules, replace(PLAIN, data_policy=secret)))


def test_what_a_caller_can_choose_tightens_and_never_loosens() -> None:
    loose = {
        "residency": "any",
        "sensitivity": "public",
        "cloud_sensitivity_limit": "restricted",
        "max_cost_usd": 9,
        "unknown_price": "allow",
        "max_retention_days": 365,
        "min_bits_for": {"code": 1},
    }
    rules = book(
        policy={
            "residency": "local_only",
            "sensitivity": "confidential",
            "cloud_sensitivity_limit": "public",
            "max_cost_usd": 0.5,
            "max_retention_days": 7,
            "min_bits_for": {"code": 8},
        },
        policies={"loose": loose},
        aliases={"open": {"use": "loose"}},
        rules=[{"name": "loose", "when": {"labels": ["loose"]}, "use": "loose"}],
    )
    for facts in (replace(PLAIN, model="open"), replace(PLAIN, labels=frozenset({"loose"}))):
        read, policy = rules.read(facts)
        assert policy.name == "loose"
        assert read.data_policy.residency is Residency.LOCAL_ONLY
        assert read.data_policy.sensitivity is Sensitivity.CONFIDENTIAL
        assert policy.cloud_sensitivity_limit is Sensitivity.PUBLIC
        assert (policy.max_cost_nano_usd, policy.unpriced) == (500_000_000, False)
        assert read.data_policy.max_retention_days == 7
        assert policy.min_bits_for == {"code": 8}


def test_judgements_add_up_and_repair_stays_forbidden() -> None:
    found = book(
        policy={"judgements": ["polite"], "repair": "forbidden"},
        policies={"short": {"judgements": ["brief"], "repair": "allowed"}},
        aliases={"mini": {"use": "short"}},
    )
    plain, aliased = plan(found), plan(found, replace(PLAIN, model="mini"))
    assert (plain.judgements, aliased.judgements) == (("polite",), ("brief", "polite"))
    assert not plain.mends
    assert not aliased.mends


def test_a_rule_that_raises_sensitivity_is_not_undone_by_what_the_caller_says() -> None:
    rules = book(
        policies={"health": {"sensitivity": "restricted"}},
        rules=[{"name": "health data", "when": {"labels": ["health"]}, "use": "health"}],
    )
    facts = replace(PLAIN, labels=frozenset({"health"}), data_policy=DataPolicy(sensitivity=Sensitivity.PUBLIC))
    assert "openai/big" not in names(plan(rules, facts))


def test_a_policy_caps_costs_below_what_the_caller_would_pay() -> None:
    rules = book(policy={"max_cost_usd": 0.000001, "order": ["cloud"]})
    assert [out.left_out_by for out in plan(rules, replace(PLAIN, max_cost_nano_usd=10**12)).left_out][-1] == "cost"


def test_a_target_of_unknown_price_passes_an_owners_cap_only_by_the_owners_word() -> None:
    capped = {"max_cost_usd": 1, "order": ["mid"]}  # which declares no price
    assert [out.left_out_by for out in plan(book(policy=capped)).left_out].count("cost") == 1
    told = book(policy={**capped, "unknown_price": "allow"})
    assert names(plan(told)) == ["mid"]
    assert names(plan(told, replace(PLAIN, max_cost_nano_usd=10**9))) == []


def test_delivery_and_validation_come_from_the_policy_unless_the_caller_says() -> None:
    rules = book(policy={"delivery": "probed", "validation": "preferred"})
    assert plan(rules).delivery is Delivery.PROBED
    assert plan(rules).validation is Validation.PREFERRED
    assert plan(rules, replace(PLAIN, delivery=Delivery.LIVE)).delivery is Delivery.LIVE


ASKED = [
    DataPolicy(residency, regions, sensitivity, days)
    for residency in Residency
    for regions in (frozenset({"us"}), frozenset({"eu", "us"}))
    for sensitivity in Sensitivity
    for days in (None, 7)
]


@pytest.mark.parametrize("tenant", ["", "acme", "other"])
@pytest.mark.parametrize("model", ["", "alias"])
@pytest.mark.parametrize("found", [None, Inspection(frozenset({"card"}), raises=True)], ids=["unread", "inspected"])
def test_what_is_bound_before_the_rules_are_read_is_what_reading_binds(
    tenant: str, model: str, found: Inspection | None
) -> None:
    rules = book(
        policy={"residency": "regions", "regions": ["eu"], "sensitivity": "internal", "max_retention_days": 30},
        policies={
            "loose": {"residency": "any", "sensitivity": "public", "max_retention_days": None},
            "late": {"sensitivity": "confidential"},
            "near": {"residency": "local_only"},
        },
        tenants={"acme": {"use": "loose"}},
        rules=[{"name": "private", "when": {"sensitivity_at_least": "restricted"}, "use": "late"}],
        aliases={"alias": {"model": "mid", "use": "near"}},
    )
    for asked in [*ASKED, UNRESOLVED]:
        said = replace(PLAIN, tenant=tenant, model=model, data_policy=asked, inspection=found)
        assert rules.read(replace(said, data_policy=rules.bound(asked, tenant))) == rules.read(said)
