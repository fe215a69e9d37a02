"""Which requests use the cache, and which answers are kept: one row a rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.router.cache_settings import CacheSettings
from services.router.eligibility import objection, terms
from services.router.facts import Delivery, Facts, StrategyName, Validation
from services.router.plan import PATIENCE, Plan
from spillway import v1
from spillway.egress import DataPolicy, Residency, Sensitivity

OPEN = DataPolicy(Residency.ANY, frozenset(), Sensitivity.INTERNAL)
LOCAL_ONLY = replace(OPEN, residency=Residency.LOCAL_ONLY)
CONFIDENTIAL = replace(OPEN, sensitivity=Sensitivity.CONFIDENTIAL)
ON = CacheSettings(enabled=True, ttl_s=100)
BY_ASKING = CacheSettings(enabled=True, by_default=False)
SENSITIVE = CacheSettings(enabled=True, ttl_s=100, sensitive_ttl_s=10)
SILENT, OFF, USE, REFRESH = (
    v1.CACHE_MODE_UNSPECIFIED,
    v1.CACHE_MODE_OFF,
    v1.CACHE_MODE_USE,
    v1.CACHE_MODE_REFRESH,
)
GREEDY = v1.GenerationSpec(sampling=v1.Sampling(temperature=0))
PICTURE = v1.Message(parts=[v1.Part(image=v1.Image(url="https://example.org/now.png"))])


def off(
    spec: v1.GenerationSpec = GREEDY,
    asked: v1.CacheMode.ValueType = SILENT,
    data_policy: DataPolicy = OPEN,
    settings: CacheSettings = ON,
    stamped: bool = False,
) -> str:
    return terms(spec, asked, data_policy, stamped=stamped, settings=settings).off


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (GREEDY, ""),
        (v1.GenerationSpec(), "its temperature is the target's own"),
        (v1.GenerationSpec(sampling=v1.Sampling(seed=1)), "its temperature is the target's own"),
        (v1.GenerationSpec(sampling=v1.Sampling(temperature=0.1)), "its temperature is above 0"),
        (v1.GenerationSpec(sampling=v1.Sampling(temperature=0, n=2)), "it wants several choices"),
        (v1.GenerationSpec(sampling=v1.Sampling(temperature=0, n=1)), ""),
        (v1.GenerationSpec(sampling=v1.Sampling(temperature=0), tools=[v1.Tool(name="t")]), "it has tools"),
        (
            v1.GenerationSpec(
                sampling=v1.Sampling(temperature=0), tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_AUTO)
            ),
            "it has tools",
        ),
        (
            v1.GenerationSpec(sampling=v1.Sampling(temperature=0), chat=v1.Chat(messages=[PICTURE])),
            "what is behind an image's URL may change",
        ),
    ],
)
def test_answers_that_may_vary_are_cached_only_if_the_request_asks(spec: v1.GenerationSpec, why: str) -> None:
    assert off(spec).removesuffix(" and it does not ask") == why
    assert off(spec, USE) == off(spec, REFRESH) == ""


def test_who_says_off_gets_a_new_answer_that_is_not_kept() -> None:
    assert off(asked=OFF) == "the request says so"


def test_the_owner_may_leave_it_to_those_who_ask() -> None:
    assert off(settings=BY_ASKING) == "it does not ask"
    assert off(asked=USE, settings=BY_ASKING) == ""


@pytest.mark.parametrize("data_policy", [LOCAL_ONLY, CONFIDENTIAL], ids=["local_only", "confidential"])
def test_sensitive_content_is_kept_only_if_owner_and_caller_both_say_so_and_for_a_shorter_time(
    data_policy: DataPolicy,
) -> None:
    assert off(asked=USE, data_policy=data_policy) == "its content is sensitive"
    assert off(data_policy=data_policy, settings=SENSITIVE) == "its content is sensitive and it does not ask"
    assert terms(GREEDY, USE, data_policy, stamped=False, settings=SENSITIVE).ttl_s == 10
    assert terms(GREEDY, USE, OPEN, stamped=False, settings=SENSITIVE).ttl_s == 100


def test_sensitive_content_never_outlives_the_rest() -> None:
    with pytest.raises(ValueError, match="sensitive_ttl_s: must not be above ttl_s"):
        CacheSettings(ttl_s=10, sensitive_ttl_s=11)


def test_only_the_first_router_of_a_chain_answers_from_its_cache() -> None:
    assert off(asked=USE, stamped=True) == "the request came from another router"


def test_a_refresh_is_told_from_a_use() -> None:
    assert terms(GREEDY, REFRESH, OPEN, stamped=False, settings=ON).refresh
    assert not terms(GREEDY, USE, OPEN, stamped=False, settings=ON).refresh


PLAN = Plan(
    Facts(data_policy=OPEN), (), (), Delivery.LIVE, Validation.OFF, StrategyName.DIRECT, PATIENCE, "ground", "1", ""
)
JUDGED = replace(PLAN, validation=Validation.REQUIRED)
JSON = v1.GenerationSpec(constraint=v1.OutputConstraint(json_object=True))


def answer(*finishes: v1.FinishReason.ValueType, judged: bool = False, reason: str = "") -> v1.GenerateResponse:
    return v1.GenerateResponse(
        started=v1.Started(route_reason=reason),
        choices=[v1.Choice(finish=v1.ChoiceFinish(reason=finish)) for finish in finishes],
        usage=v1.Usage(verdict=v1.Verdict(decision=v1.VERDICT_DECISION_ACCEPT) if judged else None),
    )


@pytest.mark.parametrize(
    ("finishes", "kept"),
    [
        ([v1.FINISH_REASON_STOP], True),
        ([v1.FINISH_REASON_STOP_SEQUENCE], True),
        ([v1.FINISH_REASON_LENGTH], True),
        ([v1.FINISH_REASON_TOOL_CALLS], True),
        ([v1.FINISH_REASON_CONTENT_FILTER], False),
        ([v1.FINISH_REASON_STOP, v1.FINISH_REASON_CONTENT_FILTER], False),
        ([v1.FINISH_REASON_UNSPECIFIED], False),
        ([], False),
    ],
)
def test_only_answers_that_ended_well_are_kept(finishes: list[v1.FinishReason.ValueType], kept: bool) -> None:
    assert (objection(GREEDY, PLAN, answer(*finishes), rerouted=False) == "") is kept


def test_what_was_to_be_judged_is_kept_only_with_its_verdict() -> None:
    stop = v1.FINISH_REASON_STOP
    assert objection(JSON, JUDGED, answer(stop), rerouted=False) == "it was to be judged and was not"
    assert objection(JSON, JUDGED, answer(stop, judged=True), rerouted=False) == ""
    assert objection(JSON, PLAN, answer(stop), rerouted=False) == ""


def test_a_degraded_answer_and_one_that_changed_its_route_are_not_kept() -> None:
    stop = v1.FINISH_REASON_STOP
    degraded = answer(stop, reason="degraded: tier small answers a complex request if nothing better can")
    assert objection(GREEDY, PLAN, degraded, rerouted=False) == "it is degraded"
    assert objection(GREEDY, PLAN, answer(stop), rerouted=True) == "it changed its route on the way"
