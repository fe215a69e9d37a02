"""Records of a COMMITTED stream: each is the caller's when it is whole and accepted, and the first one commits."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from services.router.cache_settings import CacheSettings
from services.router.http.settings import HttpSettings
from services.router.policy_settings import PolicySettings
from services.validator.app import build
from services.validator.settings import ValidatorSettings, WorkerSettings
from spillway import v1
from spillway.errors import OutputInvalid, RequestInvalid, SpillwayError, StreamInterrupted, TargetDown
from spillway.generation import Folder, fold
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine
from spillway.testing.faults import Cut, Fault, Refuse, Script, Stall
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from tests.integration.router.mesh import Mesh, running_mesh

ROW: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "kind": {"enum": ["a", "b"]}},
    "required": ["name"],
}
ROWS = {"type": "array", "items": ROW, "maxItems": 30}
PEOPLE = [{"name": f"Ann {number}", "kind": "a"} for number in range(20)]
GOOD = json.dumps(PEOPLE)
LATE = json.dumps([*PEOPLE[:3], {"name": "Bob", "kind": "c"}, *PEOPLE[3:]])
BY_RECORDS = v1.RoutingPolicy(delivery=v1.Delivery(records=True))


@dataclass
class Heard:
    """What a caller was given: the text, delta by delta, and how it ended."""

    deltas: list[v1.Delta] = field(default_factory=list)
    error: SpillwayError | None = None
    folder: Folder = field(default_factory=Folder)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)


def asked(schema: Any = ROWS, enforcement: v1.Enforcement.ValueType = v1.ENFORCEMENT_CHECKED) -> v1.GenerationSpec:
    message = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="extract")])
    return v1.GenerationSpec(
        chat=v1.Chat(messages=[message]),
        constraint=v1.OutputConstraint(json_schema=json.dumps(schema), enforcement=enforcement),
    )


async def heard(mesh: Mesh, spec: v1.GenerationSpec, policy: v1.RoutingPolicy = BY_RECORDS) -> Heard:
    found = Heard()
    try:
        async for event in mesh.stream(spec, policy):
            found.folder.add(event)
            if event.HasField("delta"):
                found.deltas.append(event.delta)
    except SpillwayError as error:
        found.error = error
    return found


@asynccontextmanager
async def judged(
    *says: str,
    fault: Fault | None = None,
    policy: PolicySettings | None = None,
    tracing: Tracing | None = None,
    **more: Any,
) -> AsyncIterator[Mesh]:
    """A mesh with a real validator before an engine that says these one after the other, the last one for ever."""
    left = list(says)
    local = FakeEngine(model="small", answer=lambda spec: left.pop(0) if len(left) > 1 else left[0], interval_s=0.001)
    local.faults = Script(fault)
    settings = ValidatorSettings(server=LOOPBACK, workers=WorkerSettings(processes=1))
    async with (
        build(settings, tracing=tracing) as validator,
        running_mesh(policy, validator_address=validator.server.address, local=local, **more) as mesh,
    ):
        mesh.cloud.answer = lambda spec: GOOD
        yield mesh


@pytest.mark.parametrize(
    ("said", "given"),
    [
        (GOOD, GOOD),
        (f"\n  {GOOD}", GOOD),
        (f"```json\n{GOOD}\n```\n", GOOD),
        (f"{GOOD} That is all of them.", GOOD),
        (f"Here they are: {GOOD}", GOOD),
        (json.dumps(PEOPLE, indent=1, ensure_ascii=False), json.dumps(PEOPLE, indent=1)),
        ("[]", "[]"),
        (GOOD.replace('}, {"name": "Ann 9"', '},, {"name": "Ann 9"'), GOOD),
    ],
)
async def test_what_is_given_is_the_json_and_nothing_else(said: str, given: str) -> None:
    async with judged(said) as mesh:
        found = await heard(mesh, asked())
        assert found.error is None
        assert found.text == given
        answer = found.folder.whole()
        assert answer.choices[0].finish.reason == v1.FINISH_REASON_STOP
        assert answer.choices[0].content.tokens == answer.usage.completion_tokens
        assert answer.usage.verdict.decision in (v1.VERDICT_DECISION_ACCEPT, v1.VERDICT_DECISION_REPAIR)
        assert [attempt.outcome for attempt in answer.usage.attempts] == [v1.ATTEMPT_OUTCOME_ANSWERED]
        assert mesh.outcomes() == ["local:answered"]


async def test_records_come_while_the_target_has_not_ended_and_leaving_stops_it() -> None:
    async with judged(GOOD, fault=Stall(10)) as mesh:
        events = mesh.stream(asked(), BY_RECORDS)
        async with aclosing(events):
            started = await anext(events)
            assert started.started.target == "local"
            text = ""
            while text.count("}") < 2:
                text += (await anext(events)).delta.text
            assert json.loads(text + "]") == PEOPLE[:2]
            assert mesh.local.running == 1
        await eventually(lambda: mesh.local.cancelled == 1)
        await eventually(lambda: mesh.outcomes() == ["local:cancelled"])


async def test_of_an_object_what_stands_before_the_first_record_comes_with_it() -> None:
    form = {"type": "object", "properties": {"total": {"type": "integer"}, "rows": ROWS, "end": {"const": True}}}
    said = json.dumps({"total": 20, "rows": PEOPLE, "end": True})
    async with judged(said) as mesh:
        found = await heard(mesh, asked(form))
        assert (found.error, found.text) == (None, said)
        assert found.deltas[0].text.startswith('{"total": 20, "rows": [{"name": "Ann 0", "kind": "a"}')
        assert len(found.deltas) > 2
        for upto in range(1, len(found.deltas)):
            begun = "".join(delta.text for delta in found.deltas[:upto])
            assert json.loads(begun + "]}")["rows"] == PEOPLE[: begun.count("name")]


@pytest.mark.parametrize("first", ['[{"name": 7, "kind": "a"}', "nothing at all", '[{"kind": "a"}]'])
async def test_before_the_first_record_a_refused_answer_is_asked_for_again(first: str) -> None:
    async with judged(first, GOOD) as mesh:
        found = await heard(mesh, asked())
        assert (found.error, found.text) == (None, GOOD)
        assert mesh.outcomes() == ["local:refused_by_validator", "local:answered"]


@pytest.mark.parametrize("fault", [Refuse(TargetDown("down")), Cut(2)])
async def test_before_the_first_record_a_failed_attempt_is_replaced(fault: Fault) -> None:
    async with judged(GOOD, fault=fault) as mesh:
        found = await heard(mesh, asked())
        assert (found.error, found.text) == (None, GOOD)
        assert [outcome.partition(":")[2] for outcome in mesh.outcomes()] == ["failed", "answered"]


async def test_after_it_a_failure_ends_the_stream() -> None:
    async with judged(GOOD, fault=Stall(10), policy=PolicySettings(idle_s=1.0)) as mesh:
        found = await heard(mesh, asked())
        assert isinstance(found.error, StreamInterrupted)
        assert "TARGET_TIMEOUT" in found.error.message
        assert found.text.count("}") >= 1
        tokens = sum(delta.tokens for delta in found.deltas)
        assert int(found.error.metadata["tokens"]) == tokens > 0
        assert mesh.outcomes() == ["local:failed"]
        assert not mesh.cloud.seen


async def test_after_it_a_refused_record_ends_the_stream_and_the_generation() -> None:
    async with judged(LATE + " word" * 2000) as mesh:
        found = await heard(mesh, asked())
        assert isinstance(found.error, OutputInvalid)
        assert "/3/kind" in found.error.message
        assert json.loads(found.text + "]") == PEOPLE[:3]
        assert mesh.outcomes() == ["local:refused_by_validator"]
        assert mesh.local.cancelled == 1
        assert not mesh.cloud.seen


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({**ROWS, "minItems": 21}, GOOD),
        ({**ROWS, "contains": {"required": ["nothing"]}}, GOOD),
        (ROWS, GOOD[:-1] + ", oops]"),
        (ROWS, json.dumps(PEOPLE, indent=1).replace("},", "},,")),
        ({**ROWS, "minItems": 2}, f"{GOOD[:31]}] or rather {json.dumps(PEOPLE[1:])}"),
    ],
)
async def test_after_it_what_only_the_end_tells_ends_the_stream(schema: Any, said: str) -> None:
    async with judged(said) as mesh:
        found = await heard(mesh, asked(schema))
        assert isinstance(found.error, OutputInvalid)
        assert json.loads(found.text + "]") == PEOPLE[: found.text.count("name")]
        assert mesh.outcomes() == ["local:refused_by_validator"]


async def test_a_whole_answer_is_asked_for_and_given_as_ever() -> None:
    async with judged(LATE, GOOD) as mesh:
        answer = await mesh.generate(asked(), BY_RECORDS)
        assert answer.choices[0].content.text == GOOD
        assert mesh.outcomes() == ["local:refused_by_validator", "local:answered"]


async def test_who_wants_the_whole_never_shares_a_stream_of_records() -> None:
    async with judged(LATE, GOOD, cache=CacheSettings(by_default=True)) as mesh:
        spec = asked()
        spec.sampling.temperature = 0
        by_records, whole = heard(mesh, spec), fold(mesh.stream(spec))
        found = await by_records
        assert isinstance(found.error, OutputInvalid)
        assert (await whole).choices[0].content.text == GOOD
        again = await heard(mesh, spec)
        assert (again.error, again.text) == (None, GOOD)


async def test_where_the_strategy_needs_the_whole_answer_records_come_all_at_once_and_the_plan_says_so() -> None:
    policy = v1.RoutingPolicy(delivery=v1.Delivery(records=True), strategy=v1.STRATEGY_CASCADE)
    async with judged(LATE, GOOD) as mesh:
        found = await heard(mesh, asked(), policy)
        assert (found.error, found.text, len(found.deltas)) == (None, GOOD, 1)
        explained = await mesh.routes.ExplainRoute(v1.ExplainRouteRequest(spec=asked(), policy=policy))
        assert "records come all at once" in explained.plan.reason


def _free_text(spec: v1.GenerationSpec, policy: v1.RoutingPolicy) -> None:
    spec.ClearField("constraint")


def _live(spec: v1.GenerationSpec, policy: v1.RoutingPolicy) -> None:
    policy.delivery.mode = v1.DELIVERY_MODE_LIVE


def _unjudged(spec: v1.GenerationSpec, policy: v1.RoutingPolicy) -> None:
    policy.validation = v1.VALIDATION_OFF


@pytest.mark.parametrize("change", [_free_text, _live, _unjudged])
async def test_records_of_what_cannot_have_them_are_refused_by_name(
    change: Callable[[v1.GenerationSpec, v1.RoutingPolicy], None],
) -> None:
    async with judged(GOOD) as mesh:
        spec, policy = asked(), v1.RoutingPolicy()
        policy.CopyFrom(BY_RECORDS)
        change(spec, policy)
        found = await heard(mesh, spec, policy)
        assert isinstance(found.error, RequestInvalid)
        assert [wrong.field for wrong in found.error.fields] == ["policy.delivery.records"]
        assert not mesh.local.seen


async def test_over_http_records_are_pieces_of_a_stream_and_a_late_mistake_ends_it() -> None:
    async with (
        judged(GOOD, LATE, http=HttpSettings(listen="127.0.0.1:0")) as mesh,
        AsyncOpenAI(base_url=f"http://{mesh.http}/v1", api_key="none", max_retries=0) as client,
    ):
        form: Any = {"type": "json_schema", "json_schema": {"name": "rows", "schema": ROWS}}
        asked: Any = {"model": "auto", "messages": [{"role": "user", "content": "extract"}], "response_format": form}
        asked["extra_headers"] = {"x-spillway-records": "true"}
        pieces = []
        async for chunk in await client.chat.completions.create(stream=True, **asked):
            pieces += [choice.delta.content or "" for choice in chunk.choices]
        assert json.loads("".join(pieces)) == PEOPLE
        assert sum(bool(piece) for piece in pieces) > 2
        pieces.clear()
        with pytest.raises(APIError, match="refused"):
            async for chunk in await client.chat.completions.create(stream=True, **asked):
                pieces += [choice.delta.content or "" for choice in chunk.choices]
        assert json.loads("".join(pieces) + "]") == PEOPLE[:3]
        del asked["response_format"]
        with pytest.raises(BadRequestError, match="x-spillway-records"):
            await client.chat.completions.create(stream=True, **asked)


async def test_the_example_of_the_docs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "policy.md").read_text()
    [example] = [each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "records" in each]
    async with judged(json.dumps([{"name": "Ann", "age": 30}, {"name": "Bob", "age": 4}])) as mesh:
        code = compile(example.replace("127.0.0.1:7070", mesh.address), "docs/policy.md", "exec")
        await asyncio.to_thread(exec, code, {})
    assert "Ann 30\nBob 4\n" in capsys.readouterr().out


async def test_the_call_in_which_an_answer_was_judged_ends_well() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("validator", exporter=exporter)
    async with judged(GOOD, tracing=tracing) as mesh:
        await heard(mesh, asked())
        await mesh.generate(asked())
        tracing.flush()
    spans = [span for span in exporter.get_finished_spans() if span.name.endswith("ValidateStream")]
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET] * 2
