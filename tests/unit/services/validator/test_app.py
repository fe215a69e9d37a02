"""The validator as its callers meet it: a real server, real workers, a real channel."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.validator.app import App, build
from services.validator.judgement import Judge
from services.validator.settings import InspectionSettings, JudgementSettings, ValidatorSettings, WorkerSettings
from services.validator.verdict import Answer, Constraint
from services.validator.worker import JUDGE, TOO_MUCH, answer
from spillway import errors, v1
from spillway.rpc.status import from_rpc_error
from spillway.testing.server import LOOPBACK
from spillway.v1 import validator_pb2_grpc

LABEL = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}
LIST = {"properties": {"next": {"$ref": "#"}}, "required": ["value"]}


def doubled(levels: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {"d0": {"type": "integer"}}
    for level in range(1, levels + 1):
        definitions[f"d{level}"] = {"allOf": [{"$ref": f"#/$defs/d{level - 1}"}] * 2}
    return {"$ref": f"#/$defs/d{levels}", "$defs": definitions}


class Validator:
    def __init__(self, app: App, channel: grpc.aio.Channel) -> None:
        self.app = app
        self.channel = channel
        self._stub: Any = validator_pb2_grpc.ValidatorServiceStub(channel)

    async def validate(self, constraint: v1.OutputConstraint, *answers: str, timeout: float = 60) -> list[v1.Verdict]:
        request = v1.ValidateRequest(constraint=constraint, answers=[v1.Answer(text=text) for text in answers])
        return list((await self.ask(request, timeout=timeout)).verdicts)

    async def ask(self, request: v1.ValidateRequest, timeout: float = 60) -> v1.ValidateResponse:
        try:
            response: v1.ValidateResponse = await self._stub.Validate(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return response

    async def inspect(self, *texts: str) -> list[v1.SensitiveSpan]:
        try:
            return list((await self._stub.InspectInput(v1.InspectInputRequest(texts=texts), timeout=60)).spans)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


@asynccontextmanager
async def validator(
    *,
    judgement: JudgementSettings | None = None,
    inspection: InspectionSettings | None = None,
    workers: WorkerSettings | None = None,
) -> AsyncIterator[Validator]:
    settings = ValidatorSettings(
        server=LOOPBACK,
        judgement=judgement or JudgementSettings(),
        inspection=inspection or InspectionSettings(),
        workers=workers or WorkerSettings(processes=1),
    )
    async with build(settings) as app, grpc.aio.insecure_channel(app.server.address) as channel:
        yield Validator(app, channel)


def schema(value: Any) -> v1.OutputConstraint:
    return v1.OutputConstraint(json_schema=json.dumps(value))


async def test_a_batch_gets_one_verdict_per_answer_in_order() -> None:
    async with validator() as served:
        verdicts = await served.validate(schema(LABEL), '{"label": "a"}', 'It is {"label": "b"}', '{"label": 1}', "no")
        health: Any = health_pb2_grpc.HealthStub(served.channel)
        ready = await health.Check(health_pb2.HealthCheckRequest(service="spillway.v1.ValidatorService"))
    assert ready.status == health_pb2.HealthCheckResponse.SERVING
    assert [verdict.decision for verdict in verdicts] == [
        v1.VERDICT_DECISION_ACCEPT,
        v1.VERDICT_DECISION_REPAIR,
        v1.VERDICT_DECISION_RETRY,
        v1.VERDICT_DECISION_RETRY,
    ]
    assert [verdict.accepted_json for verdict in verdicts] == ['{"label": "a"}', '{"label": "b"}', "", ""]
    (finding,) = verdicts[2].findings
    assert (finding.kind, finding.path, finding.schema_path) == (
        v1.FINDING_KIND_SCHEMA,
        "/label",
        "/properties/label/enum",
    )
    assert verdicts[3].findings[0].kind == v1.FINDING_KIND_JSON_MISSING


@pytest.mark.parametrize(
    ("constraint", "answers", "error", "field"),
    [
        (schema({"$ref": "http://x.example/a"}), ("1",), errors.SchemaInvalid, "constraint.json_schema"),
        (v1.OutputConstraint(json_schema="{"), ("1",), errors.SchemaInvalid, "constraint.json_schema"),
        (v1.OutputConstraint(json_schema=" " * 300_000), ("1",), errors.SchemaInvalid, "constraint.json_schema"),
        (v1.OutputConstraint(grammar="root ::= x"), ("x",), errors.ConstraintUnsupported, "constraint.grammar"),
        (v1.OutputConstraint(regex="(?=a)"), ("x",), errors.ConstraintUnsupported, "constraint.regex"),
        (v1.OutputConstraint(regex=""), ("x",), errors.RequestInvalid, "constraint.regex"),
        (v1.OutputConstraint(choices=v1.Choices()), ("x",), errors.RequestInvalid, "constraint.choices.values"),
        (v1.OutputConstraint(json_object=False), ("x",), errors.RequestInvalid, "constraint.json_object"),
        (v1.OutputConstraint(), ("x",), errors.RequestInvalid, "constraint"),
        (schema({}), (), errors.RequestInvalid, "answers"),
        (schema({}), ("1",) * 65, errors.RequestInvalid, "answers"),
        (schema({}), ("1", "x" * (2**20 + 1)), errors.RequestInvalid, "answers[1].text"),
    ],
)
async def test_a_wrong_request_is_refused_naming_the_field(
    constraint: v1.OutputConstraint, answers: tuple[str, ...], error: type[errors.SpillwayError], field: str
) -> None:
    async with validator() as served:
        with pytest.raises(error) as caught:
            await served.validate(constraint, *answers)
    assert type(caught.value) is error
    assert [violation.field for violation in caught.value.fields] == [field]
    assert field in caught.value.message


async def test_a_worker_judges_as_the_service_does() -> None:
    async with validator(workers=WorkerSettings(processes=1, inline_work=0, inline_accept_work=0)) as served:
        accepted, refused = await served.validate(schema(LIST), '{"value": 1}', '{"next": {}, "value": 1}')
        with pytest.raises(errors.SchemaInvalid) as caught:
            await served.validate(schema({"allOf": [{"$ref": "#"}, {"$ref": "http://x.example/a"}]}), "1")
        again = await served.validate(schema(LIST), '{"value": 1}')
    assert accepted.decision == v1.VERDICT_DECISION_ACCEPT
    assert again == [accepted]
    assert [(finding.path, finding.schema_path) for finding in refused.findings] == [("/next", "/required")]
    assert "'/allOf/1/$ref'" in caught.value.message
    assert caught.value.fields[0].field == "constraint.json_schema"


async def test_a_hostile_schema_is_ended_and_holds_up_nobody() -> None:
    workers = WorkerSettings(processes=1, time_limit_s=0.5)
    async with validator(workers=workers) as served:
        with pytest.raises(errors.ConstraintUnsupported, match=r"took more than 0\.5 s") as caught:
            await served.validate(schema(doubled(40)), '"x"')
        (after,) = await served.validate(schema(LIST), '{"value": 1}')  # a new worker took its place
    assert caught.value.fields[0].field == "constraint.json_schema"
    assert after.decision == v1.VERDICT_DECISION_ACCEPT


HOSTILE: dict[str, tuple[Any, str]] = {
    "allOf, doubled 30 times": (doubled(30), '"x"'),
    "an enum of 6,000 for each of 2,000 items": (
        {"items": {"enum": [f"v{n}" for n in range(6_000)]}},
        str([0] * 2_000),
    ),
    "a pattern that backtracks": ({"pattern": r"(x+x+)+\1y"}, json.dumps("x" * 60)),
    "a pattern of 10 million states": ({"pattern": "(a{1000}){1000}{10}"}, '"a"'),
    "a schema that is itself": ({"$ref": "#"}, "1"),
    "a dynamic one that is itself": ({"$dynamicAnchor": "x", "$dynamicRef": "#x"}, "1"),
    "an answer of 100,000 levels": ({}, "[" * 100_000),
    "an integer of 60,000 digits": ({"multipleOf": 3}, "1" * 60_000),
    "a number too large for any reader": ({"type": "number"}, "1e999999"),
    "a multiple of next to nothing": ({"multipleOf": 1e-300}, "1e308"),
    "100,000 items, each to be told from the others": ({"uniqueItems": True}, str([[n] for n in range(100_000)])),
    "1,600 findings": ({"allOf": [{"items": {"type": "string"}}] * 20}, str([0] * 80)),
}


@pytest.mark.parametrize("name", [*HOSTILE, "2^30 references from one schema to the next"])
async def test_what_is_hostile_holds_up_no_answer_that_comes_after_it(name: str) -> None:
    if name in HOSTILE:
        asked, answer = schema(HOSTILE[name][0]), HOSTILE[name][1]
    else:
        others = {f"urn:x:{n}": {"allOf": [{"$ref": f"urn:x:{n - 1}"}] * 2} if n else {} for n in range(31)}
        asked, answer = schema({"$ref": "urn:x:30"}), "1"
        asked.schemas.update({uri: json.dumps(one) for uri, one in others.items()})
    async with validator(workers=WorkerSettings(processes=1, time_limit_s=1.0)) as served:
        hostile = asyncio.create_task(served.validate(asked, answer))
        (light,) = await served.validate(schema(LABEL), '{"label": "a"}')
        (outcome,) = await asyncio.gather(hostile, return_exceptions=True)
        (after,) = await served.validate(schema(LIST), '{"value": 1}')  # a worker is there
    assert light.decision == after.decision == v1.VERDICT_DECISION_ACCEPT
    assert isinstance(outcome, list | errors.ConstraintUnsupported | errors.SchemaInvalid), outcome


async def test_what_is_hostile_is_judged_where_it_can_be_stopped() -> None:
    judge, bounds = Judge(JudgementSettings()), WorkerSettings()
    for name in ("allOf, doubled 30 times", "an enum of 6,000 for each of 2,000 items", "a schema that is itself"):
        asked, answer_text = HOSTILE[name]
        constraint, answers = Constraint("json_schema", json.dumps(asked)), [Answer(answer_text)]
        assert not judge.quick(constraint, answers, work=bounds.inline_work, size=bounds.inline_bytes), name


@pytest.mark.parametrize(
    ("regex", "answer"),
    [
        ("(a+)+", "a" * 60_000 + "!"),
        ("(x+x+)+y", "x" * 60_000),
        ("(a{1000}){1000}", "a"),
        ("a?" * 900 + "a" * 900, "a" * 900),
    ],
)
async def test_an_expression_that_is_hostile_holds_up_no_answer_that_comes_after_it(regex: str, answer: str) -> None:
    async with validator(workers=WorkerSettings(processes=1, time_limit_s=1.0)) as served:
        hostile = asyncio.create_task(served.validate(v1.OutputConstraint(regex=regex), answer))
        (light,) = await served.validate(schema(LABEL), '{"label": "a"}')
        (outcome,) = await asyncio.gather(hostile, return_exceptions=True)
    assert light.decision == v1.VERDICT_DECISION_ACCEPT
    assert isinstance(outcome, list | errors.ConstraintUnsupported | errors.RequestInvalid), outcome


async def test_schemas_that_come_along_are_bounded() -> None:
    bounds = JudgementSettings(max_schemas=2, max_schemas_bytes=10)
    async with validator(judgement=bounds) as served:
        for others in ({f"urn:x:{n}": "{}" for n in range(3)}, {"urn:x:0": '{"a": "long"}'}):
            asked = v1.OutputConstraint(json_schema="{}", schemas=others)
            with pytest.raises(errors.RequestInvalid) as caught:
                await served.validate(asked, "1")
            assert [violation.field for violation in caught.value.fields] == ["constraint.schemas"]


async def test_a_worker_knows_the_schemas_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    file.write_text(json.dumps({**LIST, "properties": {"next": {"$ref": "urn:example:list"}}}))
    settings = ValidatorSettings(
        server=LOOPBACK,
        schemas={"urn:example:list": file},
        workers=WorkerSettings(processes=1, inline_work=0, inline_accept_work=0),
    )
    async with build(settings) as app, grpc.aio.insecure_channel(app.server.address) as channel:
        served = Validator(app, channel)
        file.unlink()  # it is read once
        for _ in range(2):
            (verdict,) = await served.validate(schema({"$ref": "urn:example:list"}), '{"value": 1, "next": {}}')
            assert [(one.path, one.schema_path) for one in verdict.findings] == [
                ("/next", "urn:example:list#/required")
            ]
            (worker,) = app.workers._idle
            await worker.end()


async def test_what_cannot_be_mended_in_time_is_asked_for_again() -> None:
    workers = WorkerSettings(processes=1, time_limit_s=0.0001)
    async with validator(workers=workers) as served:
        (verdict,) = await served.validate(schema(LABEL), '{"label": "a",}')
    assert verdict.decision == v1.VERDICT_DECISION_RETRY
    assert verdict.findings[0].kind == v1.FINDING_KIND_JSON_MALFORMED


async def test_a_worker_that_has_ended_meanwhile_is_no_fault_of_who_asks() -> None:
    async with validator() as served:
        (worker,) = served.app.workers._idle
        await worker.end()
        (verdict,) = await served.validate(schema(LABEL), '{"label": "a",}')
    assert verdict.decision == v1.VERDICT_DECISION_REPAIR


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_a_judgement_short_of_memory_or_stack_is_told_as_that(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*arguments: Any, **options: Any) -> None:
        raise error

    judge = Judge(JudgementSettings())
    monkeypatch.setattr(Judge, "judge", short)
    asked = pickle.dumps((JUDGE, Constraint("json_object"), [Answer("{}")], False))
    assert answer(judge, asked) == (TOO_MUCH, None)


@pytest.mark.parametrize("place", [1, 5])
async def test_the_examples_of_the_docs_say_what_the_docs_say(place: int) -> None:
    document = Path(__file__).parents[4] / "docs" / "validator.md"
    blocks = document.read_text().split("```")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", blocks[place].removeprefix("python"), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert blocks[place + 2].strip() in told.decode()  # among what the service logs


async def test_a_judgement_that_eats_memory_ends_its_worker_alone() -> None:
    workers = WorkerSettings(processes=1, time_limit_s=60, memory_bytes=2**28)
    async with validator(workers=workers) as served:
        with pytest.raises(errors.ConstraintUnsupported, match="memory"):
            await served.validate(schema({"allOf": [{"items": {"type": "string"}}] * 40}), json.dumps([0] * 100_000))
        (after,) = await served.validate(schema(LABEL), '{"label": "a"}')
    assert after.decision == v1.VERDICT_DECISION_ACCEPT


async def test_a_caller_that_leaves_frees_its_worker() -> None:
    workers = WorkerSettings(processes=1, time_limit_s=600)
    async with validator(workers=workers) as served:
        with pytest.raises(errors.DeadlineExceeded):
            await served.validate(schema(doubled(40)), '"x"', timeout=0.3)
        (after,) = await served.validate(schema(LIST), '{"value": 1}')
        assert repr(served.app.workers) == "<Workers 1 idle of 1, 0 calls wait>"
    assert after.decision == v1.VERDICT_DECISION_ACCEPT


async def test_when_no_worker_is_free_calls_beyond_the_queue_are_refused() -> None:
    workers = WorkerSettings(processes=1, time_limit_s=0.5, max_waiting=0)
    async with validator(workers=workers) as served:
        results = await asyncio.gather(
            *(served.validate(schema(doubled(40)), '"x"') for _ in range(3)), return_exceptions=True
        )
    kinds = sorted(type(result).__name__ for result in results)
    assert kinds == ["ConstraintUnsupported", "QueueFull", "QueueFull"]
    assert all(error.retry_after_s for error in results if isinstance(error, errors.QueueFull))


@pytest.mark.parametrize("inline_chars", [10_000, 0])
async def test_sensitive_places_are_told_in_order_of_the_texts_at_once_or_by_a_worker(inline_chars: int) -> None:
    async with validator(inspection=InspectionSettings(inline_chars=inline_chars)) as served:
        spans = await served.inspect("nothing", "😀 a@b.example and 4111 1111 1111 1111", "10.1.2.3")
        nothing = await served.inspect("nothing", "")
    assert [(span.text, span.start, span.end, span.kind, span.rule) for span in spans] == [
        (1, 2, 13, "email", "email"),
        (1, 18, 37, "card", "card.visa"),
        (2, 0, 8, "ip_address", "ip_address.v4"),
    ]
    assert nothing == []


@pytest.mark.parametrize(
    ("texts", "field"),
    [((), "texts"), (("a", "b", "c", "d"), "texts"), (("é" * 30, "é" * 21), "texts[1]"), (("10.1.2.3 " * 3,), "texts")],
)
async def test_more_texts_or_places_than_are_inspected_at_once_are_refused(texts: tuple[str, ...], field: str) -> None:
    bounds = InspectionSettings(max_texts=3, max_bytes=100, max_spans=2)
    async with validator(inspection=bounds) as served:
        with pytest.raises(errors.RequestInvalid) as caught:
            await served.inspect(*texts)
    assert [violation.field for violation in caught.value.fields] == [field]


async def test_an_inspection_that_takes_too_long_is_ended_and_holds_up_nobody() -> None:
    workers = WorkerSettings(processes=1, time_limit_s=0.2)
    async with validator(workers=workers) as served:
        with pytest.raises(errors.RequestInvalid, match=r"took more than 0\.2 s") as caught:
            await served.inspect("phone 12 34 4111 " * 200_000)
        spans = await served.inspect("x" * 20_000 + " a@b.example")
    assert caught.value.fields[0].field == "texts"
    assert [span.kind for span in spans] == ["email"]
