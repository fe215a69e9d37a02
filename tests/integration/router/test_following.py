"""Answers in JSON are judged while they come: what nothing can make right any more is stopped, and asked for again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from services.router.following import Following
from services.validator.app import App, build
from services.validator.settings import ValidatorSettings, WorkerSettings
from spillway import v1
from spillway.errors import Cancelled, OutputInvalid, ValidatorUnavailable
from spillway.generation import fold
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.faults import Cut, Script
from spillway.testing.server import LOOPBACK
from tests.integration.router.mesh import Mesh, running_mesh

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["billing", "delivery"]}, "note": {"type": "string"}},
    "required": ["label", "note"],
    "additionalProperties": False,
}
GOOD = json.dumps({"label": "billing", "note": "short"})
LONG = " ".join(f"word{number}" for number in range(2000))
DOOMED = json.dumps({"label": "refund", "note": LONG})


def asked(max_tokens: int | None = None) -> v1.GenerationSpec:
    message = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="extract")])
    return v1.GenerationSpec(
        chat=v1.Chat(messages=[message]),
        constraint=v1.OutputConstraint(json_schema=json.dumps(SCHEMA), enforcement=v1.ENFORCEMENT_CHECKED),
        sampling=v1.Sampling(max_tokens=max_tokens),
    )


async def events(*parts: str | v1.GenerationEvent) -> AsyncIterator[v1.GenerationEvent]:
    """An answer of these texts and events, with its end."""
    told = [
        v1.GenerationEvent(started=v1.Started()),
        *(v1.GenerationEvent(delta=v1.Delta(text=part)) if isinstance(part, str) else part for part in parts),
        v1.GenerationEvent(finished=v1.Finished(choices=[v1.ChoiceFinish(reason=v1.FINISH_REASON_STOP)])),
        v1.GenerationEvent(usage=v1.Usage(completion_tokens=1)),
    ]
    for sequence, event in enumerate(told):
        event.sequence = sequence
        yield event


class Hanging:
    """A call of a validator that takes nothing, or tells nothing."""

    def __init__(self, step: str) -> None:
        self._step = step
        self.heard: list[v1.ValidateStreamRequest] = []

    async def write(self, step: v1.ValidateStreamRequest) -> None:
        if self._step == "write":
            await asyncio.Event().wait()
        self.heard.append(step)


def first_doomed(spec: v1.GenerationSpec) -> str:
    """Doomed while it is free, good once the decoder is held to the schema."""
    return DOOMED if spec.constraint.enforcement == v1.ENFORCEMENT_CHECKED else GOOD


@asynccontextmanager
async def judged(
    answer: Callable[[v1.GenerationSpec], str], faults: Script | None = None
) -> AsyncIterator[tuple[Mesh, App]]:
    """A mesh with a real validator before an engine that says `answer`, a word every 2 ms."""
    local = FakeEngine(model="small", answer=answer, interval_s=0.002, faults=faults or Script())
    settings = ValidatorSettings(server=LOOPBACK, workers=WorkerSettings(processes=1))
    async with (
        build(settings) as validator,
        running_mesh(validator_address=validator.server.address, local=local) as mesh,
    ):
        yield mesh, validator


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_doomed_answer_is_stopped_and_asked_for_again(streamed: bool) -> None:
    async with judged(first_doomed) as (mesh, _):
        answer = await fold(mesh.stream(asked())) if streamed else await mesh.generate(asked())
        assert answer.choices[0].content.text == GOOD
        assert mesh.outcomes() == ["local:refused_by_validator", "local:answered"]
        assert mesh.local.cancelled == 1, "it was left to write its answer to the end"
        assert 0 < mesh.kept[0].record.completion_tokens < 1000
        assert answer.usage.verdict.decision == v1.VERDICT_DECISION_ACCEPT


async def test_what_is_doomed_every_time_goes_to_the_next_target_and_says_why_at_last() -> None:
    async with judged(lambda spec: DOOMED) as (mesh, _):
        mesh.cloud.answer = lambda spec: DOOMED
        with pytest.raises(OutputInvalid) as raised:
            await mesh.generate(asked())
        assert "/label" in str(raised.value.metadata) + raised.value.message
        assert {outcome.partition(":")[2] for outcome in mesh.outcomes()} == {"refused_by_validator"}


async def test_a_good_answer_is_the_same_and_is_judged_once() -> None:
    async with judged(lambda spec: GOOD) as (mesh, _):
        answer = await mesh.generate(asked())
        assert (answer.choices[0].content.text, answer.choices[0].finish.reason) == (GOOD, v1.FINISH_REASON_STOP)
        assert answer.usage.completion_tokens
        assert mesh.outcomes() == ["local:answered"]


async def test_the_prompt_of_an_answer_that_is_stopped_is_counted() -> None:
    async with judged(first_doomed) as (mesh, _):
        await mesh.generate(asked())
        assert mesh.kept[0].record.prompt_tokens > 0


async def test_the_bill_of_an_answer_that_is_stopped_is_of_prompt_and_answer() -> None:
    async with judged(first_doomed) as (mesh, _):
        mesh.cloud.answer = first_doomed
        policy = v1.RoutingPolicy(allowed_targets=["cloud"])
        await mesh.generate(asked(), policy)
        stopped = mesh.kept[0].record
        assert stopped.outcome == v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR
        assert stopped.cost_nano_usd == stopped.prompt_tokens * 1000 + stopped.completion_tokens * 2000
        assert stopped.prompt_tokens > 0


@pytest.mark.parametrize("step", ["write", "verdict"])
async def test_a_validator_that_hangs_is_not_waited_for(step: str) -> None:
    following = Following(cast(Any, Hanging(step)), asked().constraint, timeout_s=0.01)
    response, verdicts = await following.whole(events(GOOD))
    assert (response.choices[0].content.text, verdicts) == (GOOD, None)


async def test_an_answer_that_its_target_began_anew_is_judged_as_a_whole() -> None:
    rpc = Hanging("verdict")
    restart = v1.GenerationEvent(route_changed=v1.RouteChanged(restarted=True))
    following = Following(cast(Any, rpc), asked().constraint, timeout_s=10)
    response, verdicts = await following.whole(events("no", restart, GOOD))
    assert (response.choices[0].content.text, verdicts) == (GOOD, None)
    assert [step.piece.text for step in rpc.heard if step.HasField("piece")] == ["no"]


async def test_a_short_answer_is_not_followed() -> None:
    async with judged(lambda spec: GOOD) as (mesh, _):
        await mesh.generate(asked(max_tokens=64))
        assert isinstance(mesh.local.seen[0].request, v1.GenerateRequest)
        await mesh.generate(asked(max_tokens=512))
        assert isinstance(mesh.local.seen[1].request, v1.StreamGenerateRequest)


async def test_an_answer_cut_on_its_way_is_a_failure_of_the_target_and_no_verdict() -> None:
    async with judged(lambda spec: GOOD, Script(always=Cut(2))) as (mesh, _):
        mesh.cloud.answer = lambda spec: GOOD
        answer = await mesh.generate(asked())
        assert answer.started.target == "cloud"
        assert mesh.outcomes()[-1] == "cloud:answered"
        assert "local:failed" in mesh.outcomes()


async def test_without_the_validator_nothing_is_followed_and_nothing_accepted() -> None:
    async with judged(lambda spec: GOOD) as (mesh, validator):
        await validator.server.close()
        with pytest.raises((ValidatorUnavailable, Cancelled)):
            await mesh.generate(asked())
        assert mesh.local.running == 0
