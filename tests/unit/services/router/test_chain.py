"""What one router tells another, and what it reads from what that did."""

from __future__ import annotations

from dataclasses import replace

from services.router.chain import account, count, regions, take, wishes
from services.router.facts import Delivery, Facts, StrategyName, Validation
from services.router.inspection import Inspection
from services.router.policy import Policy
from services.router.redaction import EVERY, Redaction
from services.router.target import Target
from spillway import v1
from spillway.errors import AllTargetsFailed, SpillwayError, TargetDown

EDGE = Target("edge", "local", "a:1", router=True)
STAYED = v1.Attempt(target="site", region="site", outcome=v1.ATTEMPT_OUTCOME_FAILED)
LEFT = v1.Attempt(target="away", region="us", left_site=True)


def read(
    usage: v1.Usage | None = None, error: SpillwayError | None = None, *, stays: bool = False, left: bool = False
) -> tuple[int, bool, str]:
    record = v1.Attempt(target="edge", region="de", left_site=left)
    made = take(record, usage, error, stays=stays)
    return made, record.left_site, record.region


def test_where_content_went_is_what_the_routers_attempts_say() -> None:
    assert read(v1.Usage(attempts=[STAYED])) == (1, False, "de")
    assert read(v1.Usage(attempts=[STAYED, LEFT, LEFT])) == (3, True, "us")
    assert read(v1.Usage(attempts=[LEFT]), left=True) == (1, True, "de, us")


def test_routers_behind_routers_are_looked_into() -> None:
    hub = v1.Attempt(target="hub", region="us, eu", left_site=True, attempts=[STAYED, LEFT])
    assert count([hub, STAYED]) == 3
    assert regions([hub, LEFT, STAYED]) == ["us", "eu"]


def test_a_routers_error_tells_the_same_as_its_answer_would() -> None:
    for attempts in ([STAYED], [STAYED, LEFT], []):
        error = AllTargetsFailed(metadata=account(attempts))
        made, left, _ = read(error=error)
        assert (made, left) == (max(1, len(attempts)), LEFT in attempts)


def test_what_a_router_does_not_say_is_taken_to_have_left_unless_it_may_not() -> None:
    for lost in (None, TargetDown("gone"), TargetDown(metadata={"attempts": "many", "left_site": ""})):
        assert read(error=lost) == (1, True, "unknown")
        assert read(error=lost, stays=True) == (1, False, "de")
        assert read(error=lost, left=True, stays=True) == (1, True, "de")


def test_wishes_that_mean_something_else_there_do_not_travel() -> None:
    asked = v1.RoutingPolicy(
        task=v1.TASK_CODE,
        labels=["night"],
        allowed_targets=["edge"],
        denied_targets=["away"],
        strategy=v1.STRATEGY_HEDGE,
        cache=v1.CACHE_MODE_USE,
        judgements=["brief"],
        max_cost_nano_usd=5,
        delivery=v1.Delivery(mode=v1.DELIVERY_MODE_PROBED, probe_tokens=3, accepts_restart=True),
    )
    plan = Policy().decide(Facts(), [EDGE])
    assert wishes(asked, plan, EDGE) == v1.RoutingPolicy(
        task=v1.TASK_CODE,
        labels=["night"],
        denied_targets=["away"],
        max_cost_nano_usd=5,
        delivery=v1.Delivery(mode=v1.DELIVERY_MODE_LIVE, probe_tokens=3),
        validation=v1.VALIDATION_OFF,
    )
    assert wishes(asked, plan, Target("engine", "local", "a:1")) is None


def test_records_are_given_there_where_they_are_given_here() -> None:
    asked = v1.RoutingPolicy(delivery=v1.Delivery(records=True))
    facts = Facts(json=True, records=True, delivery=Delivery.COMMITTED)
    for strategy, given in ((StrategyName.DIRECT, True), (StrategyName.CASCADE, False)):
        plan = Policy().decide(replace(facts, strategy=strategy), [EDGE, replace(EDGE, name="other")])
        told = wishes(asked, plan, EDGE)
        assert told is not None
        assert told.delivery == v1.Delivery(mode=v1.DELIVERY_MODE_COMMITTED, records=given)


def test_what_is_judged_here_is_judged_there_too_where_it_can_be() -> None:
    told = wishes(v1.RoutingPolicy(), Policy().decide(Facts(validation=Validation.REQUIRED), [EDGE]), EDGE)
    assert told is not None
    assert told.validation == v1.VALIDATION_PREFERRED


def test_what_goes_to_a_router_as_it_is_leaves_from_there_redacted() -> None:
    away = Target("away", "cloud", "b:1", router=True)
    for redaction, at_home in ((Redaction(EVERY), True), (Redaction(), False)):
        plan = Policy(redaction=redaction).decide(Facts(inspection=Inspection()), [EDGE, away])
        for target, redact in ((EDGE, at_home), (away, False)):
            told = wishes(v1.RoutingPolicy(redact=True), plan, target)
            assert told is not None and told.redact is redact
