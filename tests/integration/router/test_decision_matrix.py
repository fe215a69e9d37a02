"""The ready policies of the decision matrix, each seen at work."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from spillway import v1
from spillway.errors import AllTargetsFailed, TargetDown
from spillway.generation import fold
from spillway.testing.faults import Refuse, Script, Silence
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import Mesh, chat, running_mesh

GONE = Script(always=Refuse(TargetDown("gone")))


@pytest.fixture
async def matrix() -> AsyncIterator[Mesh]:
    async with running_mesh(include=("decision_matrix",)) as found:
        yield found


def background(spec: v1.GenerationSpec) -> v1.GenerationSpec:
    spec.priority = v1.PRIORITY_BACKGROUND
    return spec


async def test_bulk_classification_is_local_and_never_spills(matrix: Mesh) -> None:
    bulk = v1.RoutingPolicy(task=v1.TASK_CLASSIFY)
    assert (await matrix.generate(background(chat()), bulk)).started.target == "local"
    matrix.local.faults = GONE
    with pytest.raises(AllTargetsFailed):
        await matrix.generate(background(chat()), bulk)
    assert matrix.cloud.seen == []
    assert (await matrix.generate(chat(), bulk)).started.target == "cloud"  # somebody waits for this one


@pytest.mark.parametrize(
    "policy",
    [
        v1.RoutingPolicy(task=v1.TASK_REASON),
        v1.RoutingPolicy(task=v1.TASK_CODE),
        v1.RoutingPolicy(category=v1.CATEGORY_COMPLEX),
    ],
)
async def test_multi_step_work_goes_to_the_cloud_and_home_when_it_is_away(
    matrix: Mesh, policy: v1.RoutingPolicy
) -> None:
    assert (await matrix.generate(chat(), policy)).started.target == "cloud"
    matrix.cloud.faults = GONE
    assert (await matrix.generate(chat(), policy)).started.target == "local"


async def test_real_time_chat_is_local_with_a_hedge(matrix: Mesh) -> None:
    talk = v1.RoutingPolicy(task=v1.TASK_CHAT)
    assert (await fold(matrix.stream(chat(), talk))).started.target == "local"
    matrix.local.faults = Script(Silence())
    assert (await fold(matrix.stream(chat(), talk))).started.target == "cloud"
    await eventually(lambda: not matrix.local.running)
    assert matrix.local.cancelled == 1


@pytest.mark.parametrize("label", ["personal", "health"])
@pytest.mark.parametrize("task", [v1.TASK_UNSPECIFIED, v1.TASK_WRITE, v1.TASK_REASON, v1.TASK_CHAT])
async def test_personal_and_health_data_stay_whatever_the_task(
    matrix: Mesh, label: str, task: v1.Task.ValueType
) -> None:
    policy = v1.RoutingPolicy(labels=[label], task=task)
    assert (await matrix.generate(chat(), policy)).started.target == "local"
    matrix.local.faults = GONE
    with pytest.raises(AllTargetsFailed):
        await matrix.generate(chat(), policy)
    assert matrix.cloud.seen == []


async def test_drafts_are_made_at_home_and_refined_in_the_cloud(matrix: Mesh) -> None:
    answer = await matrix.generate(chat(), v1.RoutingPolicy(task=v1.TASK_WRITE))
    assert [attempt.target for attempt in answer.usage.attempts] == ["local", "cloud"]
    assert answer.started.target == "cloud"
