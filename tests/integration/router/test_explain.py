"""ExplainRoute: why this target, and why not the others."""

from __future__ import annotations

from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from tests.integration.router.mesh import Mesh, text


async def explain(mesh: Mesh, spec: v1.GenerationSpec, policy: v1.RoutingPolicy | None = None) -> v1.Plan:
    request = v1.ExplainRouteRequest(spec=spec, policy=policy)
    call = Call("test", Deadline.after(5))
    return (await mesh.remote.unary(mesh.routes.ExplainRoute, request, call, span_name="test")).plan


async def test_explain_names_every_target_with_its_reason_and_dispatches_nothing(mesh: Mesh) -> None:
    plan = await explain(mesh, text())
    assert [(candidate.target, candidate.taken) for candidate in plan.candidates] == [("local", True), ("cloud", True)]
    assert all(candidate.reasons for candidate in plan.candidates)
    assert plan.delivery == v1.DELIVERY_MODE_LIVE
    assert mesh.local.seen == mesh.cloud.seen == []


async def test_explain_says_why_a_target_is_out(mesh: Mesh) -> None:
    local_only = v1.RoutingPolicy(data_policy=v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY))
    plan = await explain(mesh, text(), local_only)
    assert [(candidate.target, candidate.taken) for candidate in plan.candidates] == [("local", True), ("cloud", False)]
    assert "must stay on the site" in plan.candidates[1].reasons[0]


async def test_a_plan_that_takes_nothing_is_an_answer_of_explain(mesh: Mesh) -> None:
    plan = await explain(mesh, text(), v1.RoutingPolicy(denied_targets=["local", "cloud"]))
    assert not any(candidate.taken for candidate in plan.candidates)
    assert "no target may answer" in plan.reason


async def test_what_is_dispatched_is_what_explain_says(mesh: Mesh) -> None:
    for category in (v1.CATEGORY_ROUTINE, v1.CATEGORY_COMPLEX, v1.CATEGORY_SAFETY_CRITICAL):
        policy = v1.RoutingPolicy(category=category)
        plan = await explain(mesh, text(), policy)
        assert (await mesh.generate(text(), policy)).started.target == plan.candidates[0].target


async def test_a_long_prompt_is_counted_by_the_local_target_before_it_is_refused_there(mesh: Mesh) -> None:
    few_long_words = " ".join(["x" * 50] * 100)  # 5,099 bytes, but 100 tokens to the engine that counts
    plan = await explain(mesh, text(few_long_words))
    assert plan.prompt_tokens == 100
    assert plan.candidates[0].target == "local"
    plan = await explain(mesh, text("word " * 3000))
    assert plan.candidates[0].target == "cloud"
    assert not plan.candidates[1].taken
