from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.validator.court import Court
from services.validator.settings import ValidatorSettings
from services.validator.verdict import Answer, Constraint
from services.validator.workers import Workers
from spillway.deadline import Deadline
from spillway.errors import SchemaInvalid
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
