"""Rules of policy: one row a rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.router.breaker import Standing, State
from services.router.counting import worth_counting
from services.router.facts import Category, Delivery, Facts, StrategyName, Validation
from services.router.policy import Policy
from services.router.refusal import refusal
from services.router.target import Price, Target
from spillway.egress import DataPolicy, Residency, Sensitivity
from spillway.errors import (
    BreakerOpen,
    ConstraintUnsupported,
    ContextLengthExceeded,
    ModelUnknown,
    NoCompliantTarget,
    TargetDown,
)
from spillway.tokens import IMAGE_TOKENS

EVERYTHING = frozenset({"json_schema", "json_object", "choices", "regex", "text_input", "logprobs"})
LOCAL = Target("local", "local", "a:1", context_window=2048, capabilities=EVERYTHING, price=Price(0, 0))
CLOUD = Target(
    "openai/big",
    "cloud",
    "b:1",
    "openai/big",
    "us",
    128_000,
    frozenset({"json_schema", "tools"}),
    tier="large",
    price=Price(150, 600),
)
TARGETS = (LOCAL, CLOUD)
OPEN = DataPolicy(Residency.ANY, frozenset(), Sensitivity.INTERNAL)
POLICY = Policy(data_policy=OPEN, local_context_limit=1500, min_bits_for={"code": 4})
PLAIN = Facts(data_policy=OPEN, prompt_bytes=30)


def order(facts: Facts, *targets: Target) -> list[str]:
    return [candidate.target.name for candidate in POLICY.decide(facts, targets or TARGETS).taken]


def why_out(facts: Facts, name: str, *targets: Target) -> str:
    plan = POLICY.decide(facts, targets or TARGETS)
    return next(out.left_out_by for out in plan.left_out if out.target.name == name)


@pytest.mark.parametrize(
    ("rule", "facts", "expected"),
    [
        ("a plain request goes local first", PLAIN, ["local", "openai/big"]),
        ("a routine request goes local first", replace(PLAIN, category=Category.ROUTINE), ["local", "openai/big"]),
        (
            "a complex request goes to the large tier first",
            replace(PLAIN, category=Category.COMPLEX),
            ["openai/big", "local"],
        ),
        (
            "a safety-critical request goes to the large tier only",
            replace(PLAIN, category=Category.SAFETY_CRITICAL),
            ["openai/big"],
        ),
        (
            "JSON goes local first with fallback",
            replace(PLAIN, json=True, needs=frozenset({"json_schema"})),
            ["local", "openai/big"],
        ),
        (
            "a prompt over the local limit prefers the cloud",
            replace(PLAIN, counted_tokens=1600),
            ["openai/big", "local"],
        ),
        ("a prompt over the local context leaves local out", replace(PLAIN, counted_tokens=2048), ["openai/big"]),
        (
            "a capability that is missing leaves a target out",
            replace(PLAIN, needs=frozenset({"tools"})),
            ["openai/big"],
        ),
        ("a named model takes its target alone", replace(PLAIN, model="openai/big"), ["openai/big"]),
        ("denied targets are left out", replace(PLAIN, denied=frozenset({"local"})), ["openai/big"]),
        ("allowed targets leave the others out", replace(PLAIN, allowed=frozenset({"local"})), ["local"]),
        ("without failover only the first is taken", replace(PLAIN, failover=False), ["local"]),
        ("a cost cap leaves the dearer out", replace(PLAIN, max_cost_nano_usd=100), ["local"]),
    ],
)
def test_rules(rule: str, facts: Facts, expected: list[str]) -> None:
    assert order(facts) == expected, rule


@pytest.mark.parametrize(
    "private",
    [
        DataPolicy(Residency.LOCAL_ONLY),
        DataPolicy(Residency.REGIONS, frozenset({"eu"})),
        DataPolicy(Residency.ANY, frozenset(), Sensitivity.CONFIDENTIAL),
        DataPolicy(Residency.ANY, frozenset(), Sensitivity.RESTRICTED),
        DataPolicy(),
        DataPolicy(Residency.ANY, max_retention_days=0),
    ],
)
@pytest.mark.parametrize("category", list(Category))
def test_private_prompts_never_leave_the_site_whatever_the_category(private: DataPolicy, category: Category) -> None:
    facts = replace(PLAIN, data_policy=private, category=category, model="")
    assert "openai/big" not in order(facts)
    assert why_out(facts, "openai/big") == "data_policy"


def test_a_region_that_is_allowed_may_be_used() -> None:
    facts = replace(PLAIN, data_policy=DataPolicy(Residency.REGIONS, frozenset({"us", "eu"})))
    assert order(facts) == ["local", "openai/big"]


@pytest.mark.parametrize(("kept", "taken"), [(0, True), (30, True), (31, False), (None, False)])
def test_a_target_answers_only_if_it_is_known_to_keep_content_no_longer_than_allowed(
    kept: int | None, taken: bool
) -> None:
    bound = replace(PLAIN, data_policy=replace(OPEN, max_retention_days=30))
    cloud = replace(CLOUD, retention_days=kept)
    assert order(bound, LOCAL, cloud) == (["local", "openai/big"] if taken else ["local"])
    assert taken or why_out(bound, "openai/big", LOCAL, cloud) == "data_policy"


def test_the_shorter_retention_of_owner_and_caller_holds() -> None:
    owner = Policy(data_policy=DataPolicy(Residency.ANY, max_retention_days=30))
    assert owner.resolve(DataPolicy()).max_retention_days == 30
    assert owner.resolve(DataPolicy(max_retention_days=90)).max_retention_days == 30
    assert owner.resolve(DataPolicy(max_retention_days=0)).max_retention_days == 0


def test_a_caller_tightens_the_owners_policy_and_never_loosens_it() -> None:
    owner = Policy(data_policy=DataPolicy(Residency.REGIONS, frozenset({"eu", "us"}), Sensitivity.INTERNAL))
    assert owner.resolve(DataPolicy(Residency.ANY)).residency is Residency.REGIONS
    assert owner.resolve(DataPolicy(Residency.REGIONS, frozenset({"us", "asia"}))).regions == {"us"}
    assert owner.resolve(DataPolicy(Residency.LOCAL_ONLY)).residency is Residency.LOCAL_ONLY


def test_who_says_nothing_of_sensitivity_gets_the_owners() -> None:
    owner = Policy(data_policy=DataPolicy(Residency.ANY, frozenset(), Sensitivity.INTERNAL))
    assert owner.resolve(DataPolicy()).sensitivity is Sensitivity.INTERNAL
    assert owner.resolve(DataPolicy(sensitivity=Sensitivity.PUBLIC)).sensitivity is Sensitivity.PUBLIC
    assert (
        owner.resolve(
            DataPolicy(sensitivity=Sensitivity.PUBLIC).tightened(DataPolicy(sensitivity=Sensitivity.RESTRICTED))
        ).sensitivity
        is Sensitivity.RESTRICTED
    )


def test_code_never_runs_under_four_bits_and_tagging_may() -> None:
    three = replace(LOCAL, quantization_bits=3)
    assert order(replace(PLAIN, task="code"), three, CLOUD) == ["openai/big"]
    assert order(replace(PLAIN, task="tag"), three, CLOUD) == ["local", "openai/big"]


def test_a_target_of_unknown_price_is_left_out_under_a_cost_cap() -> None:
    assert why_out(replace(PLAIN, max_cost_nano_usd=10**12), "local", replace(LOCAL, price=None), CLOUD) == "cost"


def test_json_is_validated_and_committed_unless_the_caller_says_otherwise() -> None:
    json = replace(PLAIN, json=True)
    assert POLICY.decide(PLAIN, TARGETS).validation is Validation.OFF
    assert POLICY.decide(PLAIN, TARGETS).delivery is Delivery.LIVE
    assert POLICY.decide(json, TARGETS).validation is Validation.REQUIRED
    assert POLICY.decide(json, TARGETS).delivery is Delivery.COMMITTED
    assert POLICY.decide(replace(json, delivery=Delivery.LIVE), TARGETS).delivery is Delivery.LIVE
    assert POLICY.decide(replace(json, validation=Validation.OFF), TARGETS).delivery is Delivery.LIVE


@pytest.mark.parametrize(
    ("facts", "records"),
    [
        (replace(PLAIN, json=True), True),
        (replace(PLAIN, json=True, strategy=StrategyName.CASCADE), False),
        (replace(PLAIN, json=True, strategy=StrategyName.HEDGE), False),
        (replace(PLAIN, json=True, validation=Validation.OFF), False),
    ],
)
def test_records_come_one_by_one_where_one_judged_answer_is_made_and_else_the_plan_says_that_they_do_not(
    facts: Facts, records: bool
) -> None:
    plan = POLICY.decide(replace(facts, records=True, delivery=Delivery.COMMITTED), TARGETS)
    assert (plan.records, "records come all at once" in plan.reason) == (records, not records)
    assert not POLICY.decide(facts, TARGETS).records


def test_an_answer_that_is_held_to_judgements_is_validated_and_committed_and_the_plan_says_so() -> None:
    asked = replace(PLAIN, judgements=frozenset({"polite", "brief"}))
    plan = POLICY.decide(asked, TARGETS)
    assert (plan.validation, plan.delivery) == (Validation.REQUIRED, Delivery.COMMITTED)
    assert plan.judgements == ("brief", "polite")
    assert "held to brief, polite" in plan.reason
    off = POLICY.decide(replace(asked, validation=Validation.OFF), TARGETS)
    assert (off.judgements, off.delivery) == ((), Delivery.LIVE)
    assert POLICY.decide(replace(asked, delivery=Delivery.PROBED), TARGETS).delivery is Delivery.PROBED


def test_the_judgements_of_the_owner_hold_whatever_the_caller_says_of_validation_and_delivery() -> None:
    strict = replace(POLICY, judgements=frozenset({"polite"}))
    around = replace(PLAIN, judgements=frozenset({"brief"}), validation=Validation.OFF, delivery=Delivery.LIVE)
    plan = strict.decide(around, TARGETS)
    assert (plan.validation, plan.delivery) == (Validation.REQUIRED, Delivery.COMMITTED)
    assert plan.judgements == ("brief", "polite")
    softer = replace(strict, validation=Validation.PREFERRED).decide(around, TARGETS)
    assert (softer.validation, softer.delivery) == (Validation.PREFERRED, Delivery.COMMITTED)
    side = strict.decide(replace(PLAIN, aside=True, validation=Validation.OFF), TARGETS)
    assert (side.judgements, side.validation) == ((), Validation.OFF)


def test_nothing_is_drafted_and_verified_where_the_answer_is_held_to_judgements() -> None:
    asked = replace(PLAIN, strategy=StrategyName.DRAFT_VERIFY, judgements=frozenset({"brief"}))
    plan = POLICY.decide(asked, (LOCAL, replace(CLOUD, capabilities=frozenset())))
    assert plan.strategy is StrategyName.CASCADE
    assert "draft_verify is for answers that nothing judges, so cascade" in plan.reason


def test_a_prompt_is_counted_only_where_its_bytes_do_not_already_fit() -> None:
    assert not worth_counting(replace(PLAIN, prompt_bytes=1400), TARGETS, POLICY)
    assert worth_counting(replace(PLAIN, prompt_bytes=1500), TARGETS, POLICY)
    assert not worth_counting(replace(PLAIN, prompt_bytes=9000, counted_tokens=9), TARGETS, POLICY)


def test_images_have_no_bytes_that_tell_how_much_of_the_context_they_fill() -> None:
    assert worth_counting(replace(PLAIN, images=1), TARGETS, POLICY)
    assert replace(PLAIN, images=2).prompt_tokens == PLAIN.prompt_tokens + 2 * IMAGE_TOKENS


def test_an_uncounted_prompt_whose_estimate_fits_is_not_refused() -> None:
    assert order(replace(PLAIN, prompt_bytes=3000))[-1] == "openai/big"
    assert "local" in order(replace(PLAIN, prompt_bytes=3000))


@pytest.mark.parametrize(
    ("facts", "error", "field"),
    [
        (replace(PLAIN, model="nope"), ModelUnknown, None),
        (replace(PLAIN, needs=frozenset({"images"})), ConstraintUnsupported, "spec.chat.messages"),
        (replace(PLAIN, counted_tokens=500_000), ContextLengthExceeded, "spec.input"),
        (
            replace(PLAIN, counted_tokens=5000, data_policy=DataPolicy(Residency.LOCAL_ONLY)),
            ContextLengthExceeded,
            "spec.input",
        ),
        (replace(PLAIN, model="openai/big", data_policy=DataPolicy(Residency.LOCAL_ONLY)), NoCompliantTarget, None),
        (replace(PLAIN, allowed=frozenset({"nobody"})), NoCompliantTarget, None),
        (
            replace(PLAIN, category=Category.SAFETY_CRITICAL, data_policy=DataPolicy(Residency.LOCAL_ONLY)),
            NoCompliantTarget,
            None,
        ),
    ],
)
def test_a_plan_without_targets_says_why(facts: Facts, error: type[Exception], field: str | None) -> None:
    found = refusal(POLICY.decide(facts, TARGETS))
    assert type(found) is error
    assert [violation.field for violation in found.fields] == ([field] if field else [])
    assert "local" in found.message


def test_every_target_stands_in_the_plan_with_a_reason() -> None:
    plan = POLICY.decide(replace(PLAIN, needs=frozenset({"tools"})), TARGETS)
    assert {candidate.target.name for candidate in (*plan.taken, *plan.left_out)} == {"local", "openai/big"}
    assert all(candidate.reasons for candidate in (*plan.taken, *plan.left_out))


def test_among_equals_the_cheaper_goes_first_then_the_first_declared() -> None:
    dear, cheap = replace(CLOUD, name="dear", price=Price(9e6, 9e6)), replace(CLOUD, name="cheap", price=Price(1, 1))
    twin = replace(cheap, name="twin")
    assert order(PLAIN, dear, cheap, twin) == ["cheap", "twin", "dear"]


SHUT = {
    "local": Standing(State.OPEN, "3 failures in a row", 20.0, 0.0),
    "openai/big": Standing(State.OPEN, "5 of 20 attempts failed", 7.0, 0.0),
}


def test_with_all_breakers_open_policy_says_whether_to_try_all_the_same() -> None:
    tries = POLICY.decide(PLAIN, TARGETS, SHUT)
    assert (tries.advice, len(tries.taken)) == (True, 2)
    for word in ("wait", "fail"):
        plan = replace(POLICY, when_all_open=word).decide(PLAIN, TARGETS, SHUT)
        assert (plan.advice, plan.taken, plan.opens_in_s, plan.when_all_open) == (False, (), 7.0, word)
        error = refusal(plan)
        assert isinstance(error, BreakerOpen)
        assert error.retry_after_s == 7.0


def test_a_target_that_is_recovering_is_rather_used_than_none() -> None:
    recovering = {**SHUT, "openai/big": Standing(State.CLOSED, "", 4.0, 0.1)}
    plan = replace(POLICY, when_all_open="fail").decide(PLAIN, TARGETS, recovering, draw=0.5)
    assert [candidate.target.name for candidate in plan.taken] == ["openai/big"]
    assert (plan.advice, plan.opens_in_s) == (False, None)


def test_a_target_whose_address_resolves_to_nothing_is_down() -> None:
    down = replace(LOCAL, unresolved="no such name")
    assert why_out(PLAIN, "local", down, CLOUD) == "address"
    assert order(PLAIN, down, CLOUD) == ["openai/big"]
    assert isinstance(refusal(POLICY.decide(PLAIN, (down,))), TargetDown)
