"""A plan carried out: fallback, delivery, validation, accounting."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from services.router.breaker_settings import RetryBudgetSettings
from services.router.policy_settings import PolicySettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import (
    AllTargetsFailed,
    ContentFiltered,
    ContextLengthExceeded,
    DeadlineExceeded,
    OutputInvalid,
    ProviderError,
    ProviderRateLimited,
    RequestInvalid,
    SpillwayError,
    StreamInterrupted,
    TargetDown,
    TargetModelMissing,
    TargetTimeout,
    ValidatorUnavailable,
)
from spillway.generation import fold
from spillway.rpc.call import Call
from spillway.testing.faults import Cut, Garbage, Refuse, Script, Silence, SlowFirst, Stall
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import Mesh, json_spec, running_mesh, text

LOCAL_ONLY = v1.RoutingPolicy(data_policy=v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY))
COMMITTED = v1.RoutingPolicy(delivery=v1.Delivery(mode=v1.DELIVERY_MODE_COMMITTED))
PROBED = v1.RoutingPolicy(delivery=v1.Delivery(mode=v1.DELIVERY_MODE_PROBED, probe_tokens=3))


async def test_the_answer_names_its_target_and_why(mesh: Mesh) -> None:
    answer = await mesh.generate(text())
    assert answer.choices[0].content.text == "one two three four five"
    assert (answer.started.target, answer.started.model) == ("local", "small")
    assert answer.started.route_reason == "local first"
    assert mesh.outcomes() == ["local:answered"]


@pytest.mark.parametrize("policy", [None, PROBED, COMMITTED], ids=["live", "probed", "committed"])
async def test_a_dead_target_is_replaced_silently_and_the_answer_says_so(
    mesh: Mesh, policy: v1.RoutingPolicy | None
) -> None:
    mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
    answer = await fold(mesh.stream(text(), policy))
    assert answer.choices[0].content.text == "from the cloud"
    assert answer.started.target == "cloud"
    assert "after local TARGET_DOWN" in answer.started.route_reason
    assert [(attempt.target, attempt.reason) for attempt in answer.usage.attempts] == [
        ("local", "TARGET_DOWN"),
        ("local", "TARGET_DOWN"),
        ("cloud", ""),
    ]
    assert mesh.outcomes() == ["local:failed", "local:failed", "cloud:answered"]


@pytest.mark.parametrize("policy", [None, PROBED, COMMITTED], ids=["live", "probed", "committed"])
@pytest.mark.parametrize("error", [TargetDown("gone"), ProviderError("500")], ids=lambda error: error.reason)
async def test_a_failure_over_at_once_is_tried_again_on_the_same_target(
    mesh: Mesh, policy: v1.RoutingPolicy | None, error: SpillwayError
) -> None:
    mesh.local.faults = Script(Refuse(error))
    answer = await fold(mesh.stream(text(), policy))
    assert answer.choices[0].content.text == "one two three four five"
    assert answer.started.target == "local"
    assert mesh.outcomes() == ["local:failed", "local:answered"]
    assert [seen.request.stamp.attempt for seen in mesh.local.seen] == [1, 2]


@pytest.mark.parametrize(
    "error",
    [
        TargetTimeout("silent"),
        TargetModelMissing("not here"),
        ProviderRateLimited("slow down"),
        ProviderError("503", retry_after_s=1),
    ],
    ids=lambda error: error.reason,
)
async def test_what_time_alone_mends_is_not_tried_again_on_the_same_target(mesh: Mesh, error: SpillwayError) -> None:
    mesh.local.faults = Script(Refuse(error))
    assert (await mesh.generate(text())).started.target == "cloud"
    assert mesh.outcomes() == ["local:failed", "cloud:answered"]


async def test_a_failure_that_took_longer_than_a_second_is_not_tried_again_on_the_same_target() -> None:
    async with running_mesh() as mesh:
        mesh.local.first_s = 1.1
        mesh.local.faults = Script(Cut(0))
        assert (await fold(mesh.stream(text(), PROBED))).started.target == "cloud"
        assert mesh.outcomes() == ["local:failed", "cloud:answered"]


async def test_a_stream_the_caller_has_seen_is_not_tried_again_on_the_same_target(mesh: Mesh) -> None:
    mesh.local.faults = Script(Cut(2))
    with pytest.raises(StreamInterrupted):
        await fold(mesh.stream(text()))
    assert mesh.outcomes() == ["local:failed"]


@pytest.mark.parametrize(
    ("policy", "budget"),
    [
        (PolicySettings(max_retries_per_target=0), RetryBudgetSettings()),
        (PolicySettings(), RetryBudgetSettings(share=0, floor=0)),
    ],
    ids=["by policy", "by the budget"],
)
async def test_retries_end_where_policy_or_budget_ends_them_and_failover_does_not(
    policy: PolicySettings, budget: RetryBudgetSettings
) -> None:
    async with running_mesh(policy, retry_budget=budget) as mesh:
        mesh.local.faults = Script(Refuse(TargetDown("gone")))
        assert (await mesh.generate(text())).started.target == "cloud"
        assert mesh.outcomes() == ["local:failed", "cloud:answered"]


async def test_a_silent_target_leaves_time_for_the_next() -> None:
    async with running_mesh(PolicySettings(first_token_share=0.01)) as mesh:
        mesh.local.faults = Script(Silence(), Silence())
        assert (await mesh.generate(text(), deadline_s=30)).started.target == "cloud"
        assert (await fold(mesh.stream(text(), deadline_s=30))).started.target == "cloud"
        await eventually(lambda: not mesh.local.running)
        assert [attempt.record.reason for attempt in mesh.kept] == ["TARGET_TIMEOUT", ""] * 2


async def test_the_share_of_the_deadline_bounds_the_first_token_only() -> None:
    async with running_mesh(PolicySettings(first_token_share=0.01)) as mesh:
        mesh.local.interval_s = 0.4  # five tokens take 1.6 s, longer than the share and the floor of 1 s
        assert (await mesh.generate(text(), deadline_s=30)).started.target == "local"


async def test_when_all_fail_the_error_lists_every_attempt(mesh: Mesh) -> None:
    mesh.local.faults = Script(always=Refuse(TargetDown("no engine")))
    mesh.cloud.faults = Script(Refuse(ProviderRateLimited("slow down", retry_after_s=7)))
    with pytest.raises(AllTargetsFailed) as caught:
        await mesh.generate(text())
    assert caught.value.metadata["attempt_1"].startswith("local: TARGET_DOWN")
    assert caught.value.metadata["attempt_2"].startswith("local: TARGET_DOWN")
    assert caught.value.metadata["attempt_3"].startswith("cloud: PROVIDER_RATE_LIMITED")
    assert caught.value.retry_after_s == 7
    assert mesh.outcomes() == ["local:failed", "local:failed", "cloud:failed"]


async def test_a_local_only_request_fails_rather_than_leave_the_site(mesh: Mesh) -> None:
    mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
    for call in (mesh.generate(text(), LOCAL_ONLY), fold(mesh.stream(text(), LOCAL_ONLY))):
        with pytest.raises(AllTargetsFailed) as caught:
            await call
        assert all(told.startswith("local:") for told in caught.value.metadata.values())
    assert mesh.cloud.seen == []


async def test_a_content_filter_is_never_routed_around(mesh: Mesh) -> None:
    mesh.local.faults = Script(Refuse(ContentFiltered("refused")))
    with pytest.raises(ContentFiltered):
        await mesh.generate(text())
    assert mesh.cloud.seen == []


async def test_context_overflow_goes_to_a_larger_context(mesh: Mesh) -> None:
    mesh.local.faults = Script(Refuse(ContextLengthExceeded("too long")))
    assert (await mesh.generate(text())).started.target == "cloud"


async def test_a_truncated_answer_is_never_reported_as_success(mesh: Mesh) -> None:
    mesh.local.faults = Script(Cut(2))
    with pytest.raises(StreamInterrupted) as caught:
        await fold(mesh.stream(text()))
    assert caught.value.metadata["tokens"] == "2"
    assert caught.value.metadata["last_sequence"] == "2"


async def test_a_cut_before_the_probe_is_full_is_replaced_silently(mesh: Mesh) -> None:
    mesh.local.faults = Script(always=Cut(2))
    answer = await fold(mesh.stream(text(), PROBED))
    assert answer.choices[0].content.text == "from the cloud"


async def test_a_probe_that_takes_longer_than_the_targets_share_is_over() -> None:
    async with running_mesh(PolicySettings(first_token_share=0.01, probe_tokens=100)) as mesh:
        mesh.local.interval_s = 0.4  # the fourth token comes after the share's floor of 1 s
        mesh.local.faults = Script(Cut(4))
        with pytest.raises(StreamInterrupted):
            await fold(mesh.stream(text(), v1.RoutingPolicy(delivery=v1.Delivery(mode=v1.DELIVERY_MODE_PROBED)), 30))


async def test_a_caller_that_accepts_a_restart_gets_one_and_is_told(mesh: Mesh) -> None:
    mesh.local.faults = Script(Cut(2))
    policy = v1.RoutingPolicy(delivery=v1.Delivery(accepts_restart=True))
    events = [event async for event in mesh.stream(text(), policy)]
    assert [event.sequence for event in events] == list(range(len(events)))
    changed = next(event.route_changed for event in events if event.HasField("route_changed"))
    assert (changed.from_target, changed.to_target, changed.restarted) == ("local", "cloud", True)


async def test_a_stall_after_the_commit_is_cut() -> None:
    async with running_mesh(PolicySettings(idle_s=0.3)) as mesh:
        mesh.local.faults = Script(Stall(2))
        with pytest.raises(StreamInterrupted, match=r"no token for 0\.3 s"):
            await fold(mesh.stream(text()))
        await eventually(lambda: not mesh.local.running)


async def test_what_is_left_of_the_deadline_reaches_the_target(mesh: Mesh) -> None:
    await mesh.generate(text(), deadline_s=5.0)
    mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
    await fold(mesh.stream(text(), deadline_s=5.0))
    deadlines = [seen.deadline for engine in (mesh.local, mesh.cloud) for seen in engine.seen]
    assert len(deadlines) == 4
    now = asyncio.get_running_loop().time()
    assert all(deadline.at < now + 5.0 for deadline in deadlines)


async def test_nothing_runs_past_the_deadline(mesh: Mesh) -> None:
    mesh.local.faults = Script(Silence(), Silence())
    mesh.cloud.faults = Script(Silence(), Silence())
    for call in (mesh.generate(text(), deadline_s=0.3), fold(mesh.stream(text(), deadline_s=0.3))):
        with pytest.raises(DeadlineExceeded):
            await call
    await eventually(lambda: not mesh.local.running and not mesh.cloud.running)


async def test_a_caller_that_leaves_ends_the_targets_work(mesh: Mesh) -> None:
    mesh.local.interval_s = 0.05
    async with aclosing(mesh.stream(text())) as events:
        async for event in events:
            if event.HasField("delta"):
                break
    await eventually(lambda: not mesh.local.running and bool(mesh.kept))
    assert mesh.local.cancelled == 1
    assert mesh.outcomes() == ["local:cancelled"]
    assert mesh.kept[0].record.completion_tokens >= 1


async def test_every_attempt_is_accounted_once_on_every_exit_path(mesh: Mesh) -> None:
    faults = [None, Refuse(TargetDown("gone")), Cut(1), Stall(1), Silence(), SlowFirst(0.05), Garbage()]
    for fault in faults:
        mesh.local.faults = Script(fault)
        for policy in (None, COMMITTED, PROBED):
            try:
                await fold(mesh.stream(text(), policy, deadline_s=0.4))
            except (DeadlineExceeded, StreamInterrupted):
                continue
    await eventually(lambda: not mesh.local.running and not mesh.cloud.running)
    dispatched = len(mesh.local.seen) + len(mesh.cloud.seen)
    await eventually(lambda: len(mesh.kept) >= dispatched)
    assert len(mesh.kept) == dispatched
    assert all(attempt.settled and attempt.record.outcome for attempt in mesh.kept)


async def test_unknown_is_not_zero(mesh: Mesh) -> None:
    local = await mesh.generate(text())
    assert not local.usage.HasField("cost_nano_usd")
    cloud = await mesh.generate(text(), v1.RoutingPolicy(allowed_targets=["cloud"]))
    assert cloud.usage.cost_nano_usd == 2 * 1000 + 3 * 2000


async def test_a_safety_critical_request_fails_when_the_cloud_is_down(mesh: Mesh) -> None:
    mesh.cloud.faults = Script(always=Refuse(TargetDown("gone")))
    with pytest.raises(AllTargetsFailed):
        await mesh.generate(text(), v1.RoutingPolicy(category=v1.CATEGORY_SAFETY_CRITICAL))
    assert mesh.local.seen == []


async def test_a_complex_request_degrades_to_local_when_the_cloud_is_down(mesh: Mesh) -> None:
    mesh.cloud.faults = Script(always=Refuse(TargetDown("gone")))
    answer = await mesh.generate(text(), v1.RoutingPolicy(category=v1.CATEGORY_COMPLEX))
    assert answer.started.target == "local"
    assert answer.started.route_reason.startswith("degraded")


async def test_a_refused_answer_is_tried_once_more_then_escalated(mesh: Mesh) -> None:
    mesh.cloud.answer = lambda spec: '{"ok": true}'
    answer = await mesh.generate(json_spec())
    assert answer.started.target == "cloud"
    assert answer.usage.verdict.decision == v1.VERDICT_DECISION_ACCEPT
    assert mesh.outcomes() == ["local:refused_by_validator", "local:refused_by_validator", "cloud:answered"]
    again = mesh.local.seen[1].request.spec
    assert "no JSON" in again.chat.messages[-1].parts[0].text


async def test_a_first_try_that_was_free_is_guided_the_second_time(mesh: Mesh) -> None:
    mesh.local.faults = Script(Garbage("not json"), None)
    mesh.local.answer = lambda spec: '{"ok": true}'
    answer = await mesh.generate(json_spec(v1.ENFORCEMENT_CHECKED))
    assert answer.started.target == "local"
    first, second = (seen.request.spec.constraint.enforcement for seen in mesh.local.seen)
    assert (first, second) == (v1.ENFORCEMENT_CHECKED, v1.ENFORCEMENT_GUIDED)


async def test_when_every_answer_is_refused_the_findings_are_told(mesh: Mesh) -> None:
    with pytest.raises(OutputInvalid, match="the answer has no JSON"):
        await mesh.generate(json_spec())
    assert len(mesh.kept) == 4


async def test_a_json_stream_is_committed_only_when_accepted(mesh: Mesh) -> None:
    mesh.cloud.answer = lambda spec: '{"ok": true}'
    events = [event async for event in mesh.stream(json_spec())]
    assert [event.WhichOneof("event") for event in events] == ["started", "delta", "finished", "usage"]
    assert events[1].delta.text == '{"ok": true}'


@pytest.mark.parametrize("validation", [v1.VALIDATION_UNSPECIFIED, v1.VALIDATION_REQUIRED])
async def test_without_the_validator_a_request_that_asked_for_validation_fails(
    validation: v1.Validation.ValueType,
) -> None:
    for arrangement in ({"verdict": None}, {"validator_address": "127.0.0.1:1"}):
        async with running_mesh(**arrangement) as mesh:
            with pytest.raises(ValidatorUnavailable):
                await mesh.generate(json_spec(), v1.RoutingPolicy(validation=validation))
            assert mesh.outcomes() == ["local:failed"]


async def test_without_the_validator_plain_inference_goes_on_and_preferred_validation_is_waived() -> None:
    async with running_mesh(validator_address="127.0.0.1:1") as mesh:
        assert (await mesh.generate(text())).started.target == "local"
        preferred = v1.RoutingPolicy(validation=v1.VALIDATION_PREFERRED)
        answer = await mesh.generate(json_spec(), preferred)
        assert answer.started.target == "local"
        assert not answer.usage.HasField("verdict")


async def test_a_target_gets_the_resolved_policy_as_a_stamp(mesh: Mesh) -> None:
    await mesh.generate(text(), v1.RoutingPolicy(allowed_targets=["cloud"]))
    stamp = mesh.cloud.seen[0].request.stamp
    assert (stamp.router, stamp.target, stamp.attempt) == ("router", "cloud", 1)
    assert stamp.data_policy.residency == v1.RESIDENCY_ANY


async def test_a_stamp_can_only_tighten(mesh: Mesh) -> None:
    mesh.local.faults = Script(always=Refuse(TargetDown("gone")))
    request = v1.GenerateRequest(
        spec=text(), stamp=v1.PolicyStamp(data_policy=v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY))
    )
    with pytest.raises(AllTargetsFailed):
        await mesh.remote.unary(mesh.stub.Generate, request, Call("x", Deadline.after(5)), span_name="test")
    assert mesh.cloud.seen == []


async def test_a_choice_that_is_not_known_is_refused_by_name(mesh: Mesh) -> None:
    policy = v1.RoutingPolicy(category=99, data_policy=v1.DataPolicy(residency=77))  # type: ignore[arg-type]
    with pytest.raises(RequestInvalid) as caught:
        await mesh.generate(text(), policy)
    assert [violation.field for violation in caught.value.fields] == ["policy.category", "policy.data_policy.residency"]


async def test_an_answer_names_its_target_beside_it_a_stream_before_its_tokens() -> None:
    async with running_mesh() as mesh:
        unary = mesh.stub.Generate(v1.GenerateRequest(spec=text()), timeout=20)
        stream = mesh.stub.StreamGenerate(v1.StreamGenerateRequest(spec=text()), timeout=20)
        found = [dict(await unary.trailing_metadata()), dict(await stream.initial_metadata())]
        stream.cancel()
    for headers in found:
        assert headers["x-spillway-target"] == "local"
        assert headers["x-spillway-model"]
        assert headers["x-spillway-route-reason"]


async def test_a_refusal_is_no_first_token() -> None:
    async with running_mesh() as mesh:
        mesh.local.faults = Script(Refuse(RequestInvalid("no")))
        with pytest.raises(RequestInvalid):
            await mesh.generate(text())
        await mesh.generate(text())
        refused, answered = mesh.kept
    assert not refused.record.HasField("first_token_ms")
    assert 0 < answered.record.first_token_ms <= answered.record.duration_ms
