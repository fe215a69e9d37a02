from __future__ import annotations

import asyncio

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.validator.inspector import Inspector
from services.validator.settings import InspectionSettings, ValidatorSettings
from services.validator.workers import Workers
from spillway.deadline import Deadline
from spillway.errors import RequestInvalid
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing


async def test_an_inspection_is_a_span_with_kinds_and_no_text(capfd: pytest.CaptureFixture[str]) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("validator", exporter=exporter)
    settings = ValidatorSettings()
    workers = Workers(settings.judgement, settings.workers)
    inspector = Inspector(InspectionSettings(max_texts=1), workers=workers, tracing=tracing)
    call = Call("r1", Deadline.after(60), tracing.start("root"))
    await inspector.inspect(call, ["canary@b.example, canary2@b.example, 10.1.2.3"])
    await inspector.inspect(call, ["nothing"])
    with pytest.raises(RequestInvalid) as caught:
        await inspector.inspect(call, ["canary@b.example"] * 2)
    await asyncio.to_thread(tracing.flush)
    tracing.close()
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == [names.FIND_SENSITIVE] * 3
    assert [dict(span.attributes or {}) for span in spans] == [
        {names.SENSITIVE_SPANS: 3, names.SENSITIVE_KINDS: ("email", "ip_address")},
        {names.SENSITIVE_SPANS: 0, names.SENSITIVE_KINDS: ()},
        {names.ERROR_TYPE: "REQUEST_INVALID"},
    ]
    told = "".join(span.to_json() for span in spans) + repr(inspector) + str(caught.value) + "".join(capfd.readouterr())
    assert "canary" not in told
