"""Answers held to judgement policies of a real validator, by their callers' wish or their owner's policy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.router.policy_settings import PolicySettings
from services.validator.app import App, build
from services.validator.settings import ValidatorSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import OutputInvalid, RequestInvalid, ValidatorUnavailable
from spillway.generation import fold
from spillway.rpc.call import Call
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.server import LOOPBACK
from tests.integration.router.http.rig import MESSAGES, running_edge
from tests.integration.router.mesh import Mesh, chat, running_mesh

POLICIES: dict[str, Any] = {
    "brief": {"rules": [{"kind": "length", "max_words": 5}]},
    "polite": {"rules": [{"kind": "forbidden", "words": ["your fault"]}]},
    "labelled": {"rules": [{"kind": "json", "schema": {"type": "object", "required": ["label"]}}]},
}
LONG = " ".join(f"word{number}" for number in range(2000))
SHORT = "Sorry, it comes tomorrow."


def told(spec: v1.GenerationSpec) -> str:
    """The last thing that the model is told."""
    return spec.chat.messages[-1].parts[0].text


def mended_by_words(bad: str, good: str = SHORT) -> Callable[[v1.GenerationSpec], str]:
    """Answers well once it is told what was wrong."""
    return lambda spec: good if "Your last answer was refused" in told(spec) else bad


@asynccontextmanager
async def judged(
    answer: Callable[[v1.GenerationSpec], str], policy: PolicySettings | None = None
) -> AsyncIterator[tuple[Mesh, App]]:
    """A mesh with a real validator before an engine that says `answer`, a word every 2 ms."""
    local = FakeEngine(model="small", answer=answer, interval_s=0.002)
    stated = {"server": LOOPBACK, "workers": {"processes": 1}, "policies": POLICIES}
    async with (
        build(ValidatorSettings.model_validate(stated)) as validator,
        running_mesh(policy, validator_address=validator.server.address, local=local) as mesh,
    ):
        yield mesh, validator


def held_to(*names: str, **more: Any) -> v1.RoutingPolicy:
    return v1.RoutingPolicy(judgements=names, **more)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_is_too_long_is_stopped_and_asked_for_again_with_what_was_wrong(streamed: bool) -> None:
    async with judged(mended_by_words(LONG)) as (mesh, _):
        wished = held_to("brief")
        answer = await fold(mesh.stream(chat(), wished)) if streamed else await mesh.generate(chat(), wished)
        assert answer.choices[0].content.text == SHORT
        assert mesh.outcomes() == ["local:refused_by_validator", "local:answered"]
        assert mesh.local.cancelled == 1, "it was left to write its answer to the end"
        assert mesh.kept[0].record.completion_tokens < 1000
        assert answer.usage.verdict.decision == v1.VERDICT_DECISION_ACCEPT
        instruction = told(mesh.local.seen[1].request.spec)
        assert "give at most 5 words" in instruction


async def test_a_forbidden_word_stops_the_answer_as_it_comes() -> None:
    async with judged(mended_by_words(f"It is your fault, sir. {LONG}")) as (mesh, _):
        answer = await mesh.generate(chat(), held_to("polite", "polite"))
        assert answer.choices[0].content.text == SHORT
        assert mesh.local.cancelled == 1
        assert "'your fault', which is forbidden" in told(mesh.local.seen[1].request.spec)


async def test_json_that_a_policy_asks_for_is_given_without_what_stands_around_it() -> None:
    async with judged(lambda spec: 'So: {"label": "billing"}') as (mesh, _):
        answer = await mesh.generate(chat(), held_to("labelled"))
        assert answer.choices[0].content.text == '{"label": "billing"}'
        assert answer.usage.verdict.decision == v1.VERDICT_DECISION_REPAIR


async def test_what_breaks_a_rule_every_time_is_refused_naming_the_rule() -> None:
    async with judged(lambda spec: "one two three four five six") as (mesh, _):
        mesh.cloud.answer = mesh.local.answer
        with pytest.raises(OutputInvalid) as caught:
            await mesh.generate(chat(), held_to("brief"))
        assert "give at most 5 words" in str(caught.value.metadata) + caught.value.message


async def test_the_owners_judgements_bind_whatever_the_caller_says() -> None:
    live = v1.Delivery(mode=v1.DELIVERY_MODE_LIVE)
    around = held_to("brief", validation=v1.VALIDATION_OFF, delivery=live)
    polite = PolicySettings(judgements=frozenset({"polite"}))
    async with judged(mended_by_words("It is your fault."), polite) as (mesh, _):
        answer = await fold(mesh.stream(chat(), around))
        assert answer.choices[0].content.text == SHORT
        explained = await mesh.remote.unary(
            mesh.routes.ExplainRoute,
            v1.ExplainRouteRequest(spec=chat(), policy=around),
            Call("e", Deadline.after(5)),
            span_name="test",
        )
    assert "held to brief, polite" in explained.plan.reason
    assert explained.plan.validation == v1.VALIDATION_REQUIRED
    assert explained.plan.delivery == v1.DELIVERY_MODE_COMMITTED


async def test_a_policy_that_the_validator_does_not_have_is_told_as_the_requests_mistake() -> None:
    async with judged(lambda spec: SHORT) as (mesh, _):
        with pytest.raises(RequestInvalid, match="'terse' is not a policy here; there are: brief, lab") as caught:
            await mesh.generate(chat(), held_to("terse"))
        assert [violation.field for violation in caught.value.fields] == ["policy.judgements"]


async def test_without_the_validator_no_answer_is_given_unless_validation_is_preferred() -> None:
    async with judged(lambda spec: SHORT) as (mesh, validator):
        await validator.server.close()
        with pytest.raises(ValidatorUnavailable):
            await mesh.generate(chat(), held_to("brief"))
        answer = await mesh.generate(chat(), held_to("brief", validation=v1.VALIDATION_PREFERRED))
        assert answer.choices[0].content.text == SHORT


async def test_answers_to_one_question_under_other_judgements_are_counted_apart() -> None:
    async with judged(lambda spec: SHORT) as (mesh, _):
        for names in (("brief",), ("brief", "polite"), ("polite", "brief"), ()):
            await mesh.generate(chat(), held_to(*names))
        kinds = [attempt.kind for attempt in mesh.kept]
        assert kinds[1] == kinds[2]
        assert len(set(kinds)) == 3


async def test_an_owner_can_forbid_repair_and_the_model_is_asked_again() -> None:
    spec = chat()
    spec.constraint.json_schema = json.dumps({"type": "object", "required": ["label"]})
    broken, good = "{'label': 'billing',}", '{"label": "billing"}'
    async with judged(lambda spec: broken) as (mesh, _):
        assert (await mesh.generate(spec)).choices[0].content.text == good
    async with judged(mended_by_words(broken, good), PolicySettings(repair="forbidden")) as (mesh, _):
        answer = await mesh.generate(spec)
        assert answer.choices[0].content.text == good
        assert mesh.outcomes() == ["local:refused_by_validator", "local:answered"]
        assert mesh.local.seen[0].request.spec.constraint.repair == v1.REPAIR_FORBIDDEN
    async with judged(mended_by_words(broken, good), PolicySettings(repair="forbidden")) as (mesh, _):
        await mesh.generate(chat(), held_to("labelled"))
        assert mesh.outcomes() == ["local:refused_by_validator", "local:answered"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_over_http_the_judgements_are_a_header(streamed: bool) -> None:
    stated = {"server": LOOPBACK, "workers": {"processes": 1}, "policies": POLICIES}
    local = FakeEngine(model="small", answer=mended_by_words("It is your fault."))
    async with (
        build(ValidatorSettings.model_validate(stated)) as validator,
        running_edge(validator_address=validator.server.address, local=local) as (mesh, client),
    ):
        asked: Any = {
            "model": "auto",
            "messages": MESSAGES,
            "extra_headers": {"x-spillway-judgements": "polite, brief"},
        }
        if streamed:
            stream = await client.chat.completions.create(**asked, stream=True)
            said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        else:
            said = (await client.chat.completions.create(**asked)).choices[0].message.content
        assert said == SHORT
        assert mesh.outcomes() == ["local:refused_by_validator", "local:answered"]
