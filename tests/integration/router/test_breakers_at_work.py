"""Breakers at work: what a router does with a sick target, and with one whose answers are no good."""

from __future__ import annotations

import pytest

from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import AllTargetsFailed, TargetDown
from spillway.rpc.call import Call
from spillway.testing.faults import Garbage, Refuse, Script
from tests.integration.router.mesh import Mesh, chat, json_spec, text

GONE = Script(always=Refuse(TargetDown("gone")))
LOCAL_ONLY = v1.RoutingPolicy(data_policy=v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY))


async def test_a_target_that_fails_again_and_again_is_left_alone_and_explain_says_why(mesh: Mesh) -> None:
    mesh.local.faults = GONE
    for _ in range(10):
        assert (await mesh.generate(text())).started.target == "cloud"
    assert len(mesh.local.seen) == 3
    explained: v1.ExplainRouteResponse = await mesh.remote.unary(
        mesh.routes.ExplainRoute,
        v1.ExplainRouteRequest(spec=text()),
        Call("r", Deadline.after(5)),
        span_name="t",
    )
    [out] = [candidate for candidate in explained.plan.candidates if not candidate.taken]
    assert out.target == "local"
    assert "its breaker is open" in out.reasons[0]


async def test_with_nothing_else_that_may_answer_an_open_breaker_is_advice(mesh: Mesh) -> None:
    mesh.local.faults = Script(*[Refuse(TargetDown("gone"))] * 3)
    for _ in range(2):  # the breaker opens before a fourth attempt
        with pytest.raises(AllTargetsFailed):
            await mesh.generate(text(), LOCAL_ONLY)
    assert (await mesh.generate(text())).started.target == "cloud"
    assert (await mesh.generate(text(), LOCAL_ONLY)).started.target == "local"


async def test_malformed_answers_switch_local_routing_off_for_that_work_alone(mesh: Mesh) -> None:
    mesh.local.faults = Script(always=Garbage("no JSON at all"))
    mesh.cloud.answer = lambda spec: "{}"
    for _ in range(12):
        assert (await mesh.generate(json_spec())).started.target == "cloud"
    asked = len(mesh.local.seen)
    for _ in range(5):
        assert (await mesh.generate(json_spec())).started.target == "cloud"
    assert len(mesh.local.seen) == asked
    assert asked < 24  # two tries a request, until 20 were counted
    assert (await mesh.generate(chat())).started.target == "local"
    other = json_spec()
    other.constraint.json_schema = '{"type": "array"}'
    await mesh.generate(other)
    assert len(mesh.local.seen) > asked + 1
