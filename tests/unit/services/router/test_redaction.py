"""What redaction lets leave, and that it never lowers what anybody has stated."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from services.router.facts import Facts
from services.router.inspection import SENSITIVITY_OF, Inspection
from services.router.plan import Plan
from services.router.policy_document import opened
from services.router.policy_settings import PolicyDocument
from services.router.redaction import EVERY, NONE, Kinds, Redaction
from services.router.rulebook import Rulebook
from spillway.egress import DataPolicy, Residency, Sensitivity
from spillway.settings import SettingsError

TARGETS = [
    {"name": "local", "kind": "local", "address": "a:1"},
    {"name": "cloud", "kind": "cloud", "address": "b:1", "region": "us"},
]
FACTS = Facts(prompt_bytes=30)
MAIL = Inspection(frozenset({"email"}))
ALL: dict[str, Any] = {"kinds": "all"}


def book(**parts: Any) -> Rulebook:
    return opened(PolicyDocument.model_validate({"targets": TARGETS, **parts})).in_force("")


def planned(rules: Rulebook, facts: Facts) -> Plan:
    found, policy = rules.read(facts)
    return policy.decide(found, rules.targets)


def leaves(rules: Rulebook, facts: Facts) -> bool:
    return "cloud" in {candidate.target.name for candidate in planned(rules, facts).taken}


def stated(residency: Residency = Residency.UNSPECIFIED, **more: Any) -> DataPolicy:
    return DataPolicy(residency, **more)


@pytest.mark.parametrize(
    ("policy", "found", "leaves_"),
    [
        ({}, {"email"}, False),
        ({"redact": ALL}, {"email"}, True),
        ({"redact": ALL}, {"email", "badge", "secret"}, True),
        ({"redact": {"kinds": ["email"]}}, {"email"}, True),
        ({"redact": {"kinds": ["email"]}}, {"email", "card"}, False),
        ({"redact": {"kinds": "all", "releases": ["email"]}}, {"email", "card"}, False),
        ({"redact": {"kinds": "all", "releases": []}}, {"email"}, False),
        ({"redact": ALL, "residency": "local_only"}, {"email"}, False),
        ({"redact": ALL, "residency": "regions", "regions": ["eu"]}, {"email"}, False),
        ({"redact": ALL, "sensitivity": "confidential"}, {"email"}, False),
    ],
)
def test_a_finding_keeps_nothing_on_the_site_once_it_is_replaced_and_anything_else_does(
    policy: dict[str, Any], found: set[str], leaves_: bool
) -> None:
    facts = replace(FACTS, inspection=Inspection(frozenset(found)))
    assert leaves(book(policy={"inspect": True, **policy}), facts) is leaves_


@pytest.mark.parametrize(
    "asked",
    [
        stated(Residency.LOCAL_ONLY),
        stated(Residency.REGIONS, regions=frozenset({"eu"})),
        stated(sensitivity=Sensitivity.CONFIDENTIAL),
        stated(sensitivity=Sensitivity.RESTRICTED),
        stated(max_retention_days=1),
    ],
)
def test_what_a_caller_states_is_not_lowered(asked: DataPolicy) -> None:
    assert not leaves(book(policy={"redact": ALL}), replace(FACTS, inspection=MAIL, data_policy=asked))


def test_what_a_rule_states_of_what_was_found_is_not_lowered() -> None:
    policies = {"careful": {"residency": "local_only"}, "open": {"local_context_limit": 1}}
    for use in policies:
        rules = [{"name": "r", "when": {"sensitivity_at_least": "confidential"}, "use": use}]
        ground = {"redact": ALL}
        found = leaves(book(policy=ground, policies=policies, rules=rules), replace(FACTS, inspection=MAIL))
        assert found is (use == "open")


def test_who_chooses_a_policy_by_what_they_send_has_nothing_released_by_it() -> None:
    rules = [{"name": "r", "when": {"labels": ["x"]}, "use": "redacted"}]
    facts = replace(FACTS, labels=frozenset({"x"}), inspection=MAIL)
    for ground, released in (({"inspect": True}, False), ({"redact": {"kinds": ["email"]}}, True)):
        rulebook = book(policy=ground, policies={"redacted": {"redact": ALL}}, rules=rules)
        plan = planned(rulebook, facts)
        assert plan.redaction.kinds == EVERY
        assert leaves(rulebook, facts) is released
        assert not leaves(rulebook, replace(facts, inspection=Inspection(frozenset({"email", "card"}))))
    tenant = book(policies={"redacted": {"redact": ALL}}, tenants={"acme": {"use": "redacted"}})
    assert leaves(tenant, replace(facts, tenant="acme"))
    assert planned(tenant, facts).redaction == Redaction()


def test_a_caller_that_asks_tightens_alone() -> None:
    asking = replace(FACTS, redact=True)
    for ground, found, leaves_ in (
        ({}, Inspection(frozenset({"email"}), raises=False), True),
        ({"inspect": True}, MAIL, False),
        ({"redact": {"kinds": ["email"]}}, MAIL, True),
        ({"redact": {"kinds": ["email"]}}, Inspection(frozenset({"email", "card"})), False),
    ):
        facts = replace(asking, inspection=found)
        plan = planned(book(policy=ground), facts)
        assert leaves(book(policy=ground), facts) is leaves_
        assert plan.redaction.kinds == EVERY
        assert leaves(book(policy=ground), replace(facts, redact=False)) >= leaves_


def test_a_prompt_is_looked_at_where_it_would_leave_redacted() -> None:
    for ground, facts, looks, raises in (
        ({}, FACTS, False, False),
        ({}, replace(FACTS, redact=True), True, False),
        ({"redact": ALL}, FACTS, True, True),
        ({"redact": {"releases": []}}, FACTS, True, False),
        ({"redact": ALL}, replace(FACTS, data_policy=stated(sensitivity=Sensitivity.RESTRICTED)), True, True),
        ({"redact": ALL}, replace(FACTS, data_policy=stated(Residency.LOCAL_ONLY)), False, True),
        ({"redact": ALL}, replace(FACTS, inspection=MAIL), False, True),
    ):
        found, policy = book(policy=ground).read(facts)
        assert (policy.inspects(found), policy.raises(found)) == (looks, raises)


@pytest.mark.parametrize(
    ("inspection", "more", "why"),
    [
        (None, {}, "nobody has looked"),
        (Inspection(away="this router has no validator"), {}, "not inspected"),
        (Inspection(unreadable=("images",)), {}, "images cannot be redacted"),
        (Inspection(sealed=("a provider's state",)), {}, "a provider's state cannot be redacted"),
        (MAIL, {"needs": frozenset({"embeddings"})}, "vectors of placeholders"),
        (MAIL, {"needs": frozenset({"regex"})}, "placeholders have no place in a regex"),
    ],
)
def test_what_cannot_be_redacted_stays_even_where_all_is_trusted(
    inspection: Inspection | None, more: dict[str, Any], why: str
) -> None:
    objection = Redaction(EVERY, EVERY).objection(inspection, more.get("needs", frozenset()))
    assert why in objection
    found = inspection if inspection is None else replace(inspection, raises=False)
    capabilities = ["regex"] if "regex" in more.get("needs", ()) else ["embeddings"] if more else []
    targets = [{**target, "capabilities": capabilities} for target in TARGETS]
    trusting = book(targets=targets, policy={"cloud_sensitivity_limit": "restricted"})
    assert not leaves(trusting, replace(FACTS, redact=True, inspection=found, **more))


def test_clean_vectors_leave() -> None:
    targets = [{**target, "capabilities": ["embeddings"]} for target in TARGETS]
    assert leaves(
        book(targets=targets, policy={"redact": ALL}),
        replace(FACTS, needs=frozenset({"embeddings"}), inspection=Inspection()),
    )


def test_the_plan_says_what_is_redacted_and_who_is_told_what() -> None:
    facts = replace(FACTS, inspection=Inspection(frozenset({"phone", "email"})))
    plan = planned(book(policy={"redact": ALL}), facts)
    local, cloud = plan.taken
    assert (cloud.reasons[-1], local.reasons) == ("redacted: email, phone", ("local first",))
    assert (plan.redacts(cloud.target), plan.redacts(local.target)) == (True, False)
    assert plan.data_policy_at(cloud.target) == DataPolicy(Residency.ANY, sensitivity=Sensitivity.INTERNAL)
    at_home = plan.data_policy_at(local.target)
    assert (at_home.residency, at_home.sensitivity) == (Residency.LOCAL_ONLY, Sensitivity.CONFIDENTIAL)


def test_whatever_the_rules_are_redaction_releases_findings_of_its_kinds_alone() -> None:
    rng = random.Random(20261122)
    kinds = sorted(SENSITIVITY_OF)
    for _ in range(500):
        found = Inspection(frozenset(rng.sample(kinds, rng.randint(0, 4))))
        asked = DataPolicy(rng.choice(list(Residency)), sensitivity=rng.choice(list(Sensitivity)))
        names = frozenset(rng.sample(kinds, rng.randint(1, 5)))
        ground: dict[str, Any] = {
            "inspect": rng.random() < 0.5,
            "sensitivity": rng.choice(["public", "internal", "confidential"]),
            "cloud_sensitivity_limit": rng.choice(["internal", "confidential", "restricted"]),
            "redact": rng.choice([None, ALL, {"kinds": names}, {"releases": names}]),
        }
        facts = replace(FACTS, inspection=found, data_policy=asked, redact=rng.random() < 0.5)
        redact = ground["redact"] or {"releases": []}
        released = Kinds.stated(redact.get("releases", redact.get("kinds", "all")))
        unredacted = book(policy={**ground, "redact": None, "inspect": True})
        without = replace(facts, inspection=found.without(released))
        assert leaves(book(policy=ground), facts) is leaves(unredacted, without), (ground, facts)


def test_kinds_are_sets_of_which_one_has_everything() -> None:
    some, more = Kinds(frozenset({"a"})), Kinds(frozenset({"a", "b"}))
    assert (some & EVERY, EVERY & more, some & more, some & NONE) == (some, more, some, NONE)
    assert (some | EVERY, NONE | more, some | more) == (EVERY, more, more)
    assert [bool(each) for each in (EVERY, NONE, some)] == [True, False, True]
    assert ("badge" in EVERY, "b" in some, "b" in more) == (True, False, True)
    assert repr(more) == "<Kinds a, b>"


@pytest.mark.parametrize("redact", [{"kinds": []}, {"kinds": ["email"], "releases": ["card"]}, {"kind": "all"}])
def test_a_policy_that_would_release_what_it_does_not_replace_is_refused(redact: dict[str, Any]) -> None:
    with pytest.raises((SettingsError, ValueError)):
        book(policy={"redact": redact})
