from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.validator.batch import MAX_TOO_MUCH
from services.validator.court import Court
from services.validator.judgement import Judge
from services.validator.settings import ValidatorSettings
from services.validator.verdict import Answer, Constraint, Decision, Verdict
from services.validator.workers import Workers
from spillway.deadline import Deadline
from spillway.errors import ConstraintUnsupported, SchemaInvalid
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    tracing = Tracing("validator", exporter=exporter)
    yield tracing
    tracing.close()


async def test_an_answer_that_is_right_needs_no_worker_where_telling_what_is_wrong_would(tracing: Tracing) -> None:
    settings = ValidatorSettings()
    judge, bounds = Judge(settings.judgement), settings.workers
    court = Court(settings, workers=Workers(settings.judgement, bounds), tracing=tracing)  # none has been started
    right, wrong = json.dumps(["x"] * 100), json.dumps([0] * 100)
    asked = Constraint("json_schema", json.dumps({"allOf": [{"items": {"type": "string"}}] * 20}))
    assert not judge.quick(asked, [Answer(right)], work=bounds.inline_work, size=bounds.inline_bytes)
    call = Call("r1", Deadline.after(60), tracing.start("root"))
    (verdict,) = await court.judge(call, asked, [Answer(right)])
    assert (verdict.decision, verdict.accepted_json) == (Decision.ACCEPT, right)
    for answers in ([Answer(wrong)], [Answer(right), Answer(wrong)], [Answer(f"so: {right}")], [Answer("1", True)]):
        assert judge.accepted(asked, answers) is None
    assert judge.accepted(Constraint("json_object"), [Answer("{}")]) is None


async def test_a_judgement_is_a_span_with_the_worst_decision_and_no_text(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    settings = ValidatorSettings()
    court = Court(settings, workers=Workers(settings.judgement, settings.workers), tracing=tracing)
    root = tracing.start("root")
    call = Call("r1", Deadline.after(60), root)
    anything = Constraint("json_object")
    await court.judge(call, anything, [Answer("{}"), Answer("a secret"), Answer("so: {}")])
    await court.judge(call, anything, [Answer("{}")])
    with pytest.raises(SchemaInvalid):
        await court.judge(call, Constraint("json_schema", "{"), [Answer("a secret")])
    await asyncio.to_thread(tracing.flush)
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == [names.JUDGE] * 3
    assert [dict(span.attributes or {}) for span in spans] == [
        {names.DECISION: "retry"},
        {names.DECISION: "accept"},
        {names.ERROR_TYPE: "SCHEMA_INVALID"},
    ]
    assert {span.parent.span_id for span in spans if span.parent} == {root.get_span_context().span_id}
    assert "secret" not in "".join(span.to_json() for span in spans)


class Overtaxed(Workers):
    """Every question takes too long."""

    asked = 0

    async def judge(self, constraint: Constraint, answers: Sequence[Answer], *, mend: bool = False) -> list[Verdict]:
        self.asked += 1
        raise ConstraintUnsupported("takes too long")


async def test_answers_that_take_too_long_to_mend_do_not_keep_a_worker_one_after_the_other(tracing: Tracing) -> None:
    settings = ValidatorSettings()
    workers = Overtaxed(settings.judgement, settings.workers)
    court = Court(settings, workers=workers, tracing=tracing)
    call = Call("r1", Deadline.after(60), tracing.start("root"))
    verdicts = await court.judge(call, Constraint("json_object"), [Answer('{"a": 1,}')] * 20)
    assert {verdict.decision for verdict in verdicts} == {Decision.RETRY}
    assert workers.asked == MAX_TOO_MUCH + 1
