"""What an inspection demands, and that it raises and never lowers, whatever the rules are."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from services.router.facts import Facts
from services.router.inspection import SENSITIVITY_OF, Inspection
from services.router.policy_document import opened
from services.router.policy_settings import PolicyDocument
from services.router.rulebook import Rulebook
from spillway.egress import DataPolicy, Residency, Sensitivity

FACTS = Facts(prompt_bytes=30)
TARGETS = [
    {"name": "local", "kind": "local", "address": "a:1"},
    {"name": "cloud", "kind": "cloud", "address": "b:1", "region": "us"},
]


def book(**parts: Any) -> Rulebook:
    return opened(PolicyDocument.model_validate({"targets": TARGETS, **parts})).in_force("")


def found(*kinds: str) -> Facts:
    return replace(FACTS, inspection=Inspection(frozenset(kinds)))


@pytest.mark.parametrize(
    ("inspection", "sensitivity", "told"),
    [
        (Inspection(), Sensitivity.UNSPECIFIED, "inspection found nothing"),
        (Inspection(frozenset({"email"})), Sensitivity.CONFIDENTIAL, "inspection found email"),
        (Inspection(frozenset({"email", "card"})), Sensitivity.RESTRICTED, "inspection found card, email"),
        (Inspection(frozenset({"badge"})), Sensitivity.RESTRICTED, "inspection found badge"),
        (Inspection(unreadable=("images",)), Sensitivity.RESTRICTED, "inspection cannot read images"),
    ],
)
def test_the_most_sensitive_finding_counts_and_what_is_unknown_counts_most(
    inspection: Inspection, sensitivity: Sensitivity, told: str
) -> None:
    assert inspection.demands({}) == DataPolicy(sensitivity=sensitivity)
    assert inspection.told == told


def test_what_nobody_inspected_is_most_sensitive_and_stays() -> None:
    away = Inspection(away="the validator did not answer (TARGET_DOWN)")
    assert away.demands({"email": Sensitivity.PUBLIC}) == DataPolicy(
        Residency.LOCAL_ONLY, sensitivity=Sensitivity.RESTRICTED
    )


def test_a_policy_says_how_sensitive_kinds_are_and_what_it_does_not_name_keeps_its_default() -> None:
    rules = book(policy={"sensitivity_of": {"email": "public", "badge": "confidential"}})
    read = [rules.read(found(kind))[0].data_policy.sensitivity for kind in ("email", "badge", "card")]
    assert read == [Sensitivity.INTERNAL, Sensitivity.CONFIDENTIAL, Sensitivity.RESTRICTED]


def test_what_is_found_never_lowers_what_the_owner_says_of_content_whose_caller_says_nothing() -> None:
    facts, _ = book(policy={"sensitivity": "restricted"}).read(found("email"))
    assert facts.data_policy.sensitivity is Sensitivity.RESTRICTED


def test_rules_are_read_with_what_was_found() -> None:
    rules = book(
        policies={"careful": {"order": ["local"]}},
        rules=[{"name": "private", "when": {"sensitivity_at_least": "confidential"}, "use": "careful"}],
    )
    assert rules.read(found())[1].name == "ground"
    facts, policy = rules.read(found("phone"))
    plan = policy.decide(facts, rules.targets)
    assert plan.policy == "careful"
    assert plan.reason == (
        "policy careful by rule 'private'; inspection found phone; local: place 1 in the order of policy careful"
    )


def test_a_policy_that_was_chosen_for_what_was_found_may_think_worse_of_it() -> None:
    rules = book(
        policies={"careful": {"sensitivity_of": {"phone": "restricted"}}, "most": {"residency": "local_only"}},
        rules=[
            {"name": "secret", "when": {"sensitivity_at_least": "restricted"}, "use": "most"},
            {"name": "private", "when": {"sensitivity_at_least": "confidential"}, "use": "careful"},
        ],
    )
    facts, policy = rules.read(found("phone"))
    assert policy.name == "most"
    assert facts.data_policy == DataPolicy(Residency.LOCAL_ONLY, sensitivity=Sensitivity.RESTRICTED)


def test_rules_and_aliases_turn_inspection_on_and_never_off() -> None:
    more = {"on": {"inspect": True}, "off": {"inspect": False, "sensitivity_of": {"card": "public", "badge": "public"}}}
    aliases = {"on": {"use": "on"}, "off": {"use": "off"}}
    on, off = (replace(FACTS, model=name) for name in ("on", "off"))
    assert book(policies=more, aliases=aliases).read(on)[1].inspect
    _, policy = book(policy={"inspect": True}, policies=more, aliases=aliases).read(off)
    assert policy.inspect
    assert {policy.sensitivity_of[kind] for kind in ("card", "badge")} == {Sensitivity.RESTRICTED}


def test_a_tenant_may_have_it_otherwise() -> None:
    named = {"trusted": {"inspect": False, "sensitivity_of": {"email": "public"}}}
    rules = book(policy={"inspect": True}, policies=named, tenants={"lab": {"use": "trusted"}})
    assert not rules.read(replace(FACTS, tenant="lab"))[1].inspect
    assert rules.read(FACTS)[1].inspect
    assert rules.read(replace(found("email"), tenant="lab"))[0].data_policy.sensitivity is Sensitivity.INTERNAL


@pytest.mark.parametrize(
    ("facts", "inspects"),
    [
        (FACTS, False),
        (replace(FACTS, inspect=True), True),
        (replace(FACTS, inspect=True, inspection=Inspection()), False),
        (replace(FACTS, inspect=True, data_policy=DataPolicy(sensitivity=Sensitivity.CONFIDENTIAL)), True),
        (replace(FACTS, inspect=True, data_policy=DataPolicy(sensitivity=Sensitivity.RESTRICTED)), False),
        (replace(FACTS, inspect=True, data_policy=DataPolicy(Residency.LOCAL_ONLY)), False),
    ],
)
def test_a_prompt_is_inspected_once_and_only_where_that_can_matter(facts: Facts, inspects: bool) -> None:
    read, policy = book().read(facts)
    assert policy.inspects(read) is inspects


def test_no_rules_make_content_looser_by_what_is_found() -> None:
    rng = random.Random(3)
    levels = ["public", "internal", "confidential", "restricted"]
    kinds = [*SENSITIVITY_OF, "badge"]
    residencies: list[dict[str, Any]] = [
        {},
        {"residency": "any"},
        {"residency": "local_only"},
        {"residency": "regions", "regions": ["us"]},
        {"residency": "regions", "regions": ["eu"]},
    ]

    def policy() -> dict[str, Any]:
        stated: dict[str, Any] = {**rng.choice(residencies)}
        if rng.random() < 0.5:
            stated["sensitivity"] = rng.choice(levels)
        if rng.random() < 0.5:
            stated["sensitivity_of"] = {kind: rng.choice(levels) for kind in rng.sample(kinds, 3)}
        if rng.random() < 0.5:
            stated["max_retention_days"] = rng.choice([None, 0, 30])
        return stated

    for _ in range(300):
        rules = book(
            policy=policy(),
            policies={name: policy() for name in "abc"},
            rules=[
                {"name": name, "when": {"sensitivity_at_least": rng.choice(levels)}, "use": name}
                for name in rng.sample("abc", rng.randrange(4))
            ],
            aliases={"alias": {"use": rng.choice("abc")}},
        )
        asked = DataPolicy(
            rng.choice(list(Residency)),
            frozenset(rng.sample(["eu", "us"], 1)),
            rng.choice(list(Sensitivity)),
            rng.choice([None, 7, 90]),
        )
        said = replace(FACTS, data_policy=asked, model=rng.choice(["", "alias"]))
        before, _ = rules.read(said)
        inspection = rng.choice([Inspection(frozenset(rng.sample(kinds, 2))), Inspection(away="it is away")])
        after, chosen = rules.read(replace(said, inspection=inspection))
        demanded = inspection.demands(chosen.sensitivity_of)
        assert after.data_policy.sensitivity >= max(before.data_policy.sensitivity, demanded.sensitivity)
        assert after.data_policy.residency >= max(before.data_policy.residency, demanded.residency)
        for region in ("eu", "us"):
            limit = Sensitivity.RESTRICTED
            for days in (None, 0, 10, 60):
                stayed = before.data_policy.objection(region, limit, days)
                assert not stayed or after.data_policy.objection(region, limit, days)


def test_a_rule_may_go_by_signs_of_injection() -> None:
    rules = [{"name": "r", "when": {"injection": True}, "use": "home"}]
    rulebook = book(policy={"inspect": True}, policies={"home": {"residency": "local_only"}}, rules=rules)
    for inspection, residency in (
        (None, Residency.ANY),
        (Inspection(), Residency.ANY),
        (Inspection(marked=True), Residency.LOCAL_ONLY),
    ):
        facts, _ = rulebook.read(replace(FACTS, inspection=inspection))
        assert facts.data_policy.residency is residency
    assert Inspection(frozenset({"email"}), marked=True).told == "inspection found email, signs of injection"
    assert Inspection(marked=True).result == "found"
