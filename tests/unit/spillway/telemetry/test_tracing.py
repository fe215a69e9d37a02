from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, Span
from opentelemetry.trace import StatusCode as SpanStatus

from spillway.settings import TelemetrySettings
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, extract, fail, inject, trace_id

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"


def test_a_span_is_under_the_parent_it_is_given_and_no_other() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("router", exporter=exporter)
    root = tracing.start("root")
    child, stranger = tracing.start("child", root), tracing.start("stranger")
    for span in (stranger, child, root):
        span.end()
    tracing.close()

    told = {span.name: span for span in exporter.get_finished_spans()}
    assert told["child"].parent is not None
    assert told["child"].parent.span_id == told["root"].context.span_id
    assert told["stranger"].parent is None
    assert told["stranger"].context.trace_id != told["root"].context.trace_id
    assert told["root"].resource.attributes["service.name"] == "router"


def test_a_span_travels_as_a_traceparent() -> None:
    tracing = Tracing("router", exporter=InMemorySpanExporter())
    span = tracing.start("here", extract({"traceparent": PARENT}))

    headers = inject(span)

    assert headers["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert headers["traceparent"] != PARENT
    assert trace_id(span) == "0af7651916cd43dd8448eb211c80319c"
    span.end()
    tracing.close()


def test_without_an_endpoint_nothing_is_recorded_and_the_callers_trace_passes_on() -> None:
    tracing = Tracing("router", TelemetrySettings())

    span = tracing.start("here", extract({"traceparent": PARENT}))

    assert not span.is_recording()
    assert inject(span) == {"traceparent": PARENT}
    assert inject(tracing.start("alone")) == inject(INVALID_SPAN) == {}
    assert trace_id(tracing.start("alone")) == ""
    tracing.flush()
    tracing.close()


def test_a_trace_the_caller_does_not_record_is_not_recorded_here() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("router", exporter=exporter)

    span = tracing.start("here", extract({"traceparent": UNSAMPLED}))
    span.end()
    tracing.close()

    assert exporter.get_finished_spans() == ()
    assert inject(span)["traceparent"].endswith("-00")


@pytest.mark.parametrize("parent", [None, INVALID_SPAN])
def test_only_the_share_asked_for_is_recorded(parent: Span | None) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("router", TelemetrySettings(sample_ratio=0.25), exporter=exporter)

    for _ in range(400):
        tracing.start("here", parent).end()
    tracing.close()

    assert 40 < len(exporter.get_finished_spans()) < 160  # 60 are seven standard deviations


def test_what_is_under_a_span_that_is_not_sampled_is_that_span_and_travels_as_not_sampled() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("router", TelemetrySettings(sample_ratio=0), exporter=exporter)

    root = tracing.start("here")
    assert tracing.start("below", root) is root
    tracing.close()

    assert exporter.get_finished_spans() == ()
    assert trace_id(root)
    assert inject(root)["traceparent"].endswith("-00")


@pytest.mark.parametrize("exporter", [None, InMemorySpanExporter()], ids=["not recorded here", "recorded here"])
def test_a_span_of_somebody_else_is_a_parent_and_left_as_it_is(exporter: SpanExporter | None) -> None:
    theirs = TracerProvider(shutdown_on_exit=False).get_tracer("caller").start_span("theirs")
    tracing = Tracing("client", exporter=exporter)

    span = tracing.start("here", theirs)
    span.set_attribute("said", "here")
    fail(span, "TARGET_DOWN")
    span.end()
    tracing.close()

    assert trace_id(span) == trace_id(theirs)
    assert theirs.is_recording()
    assert isinstance(theirs, ReadableSpan)
    assert (dict(theirs.attributes or {}), theirs.status.status_code) == ({}, SpanStatus.UNSET)
    theirs.end()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_traces_of_processes_that_are_seeded_alike_are_not_taken_for_one(ratio: float) -> None:
    tracing = Tracing("engine", TelemetrySettings(sample_ratio=ratio), exporter=InMemorySpanExporter())
    traces = set()
    for _ in range(2):
        random.seed(0)
        traces.add(inject(tracing.start("here"))["traceparent"])
    tracing.close()
    assert len(traces) == 2


def test_a_failure_is_told_by_its_reason() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("router", exporter=exporter)
    span = tracing.start("here")
    fail(span, "TARGET_DOWN")
    span.end()
    fail(INVALID_SPAN, "TARGET_DOWN")
    tracing.close()

    (told,) = exporter.get_finished_spans()
    assert dict(told.attributes or {})[names.ERROR_TYPE] == "TARGET_DOWN"
    assert (told.status.status_code, told.status.description) == (SpanStatus.ERROR, "TARGET_DOWN")


@pytest.fixture(params=["refuses", "never answers"])
def dead_collector(request: pytest.FixtureRequest) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "never answers":
            listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_dead_collector_holds_up_the_end_no_longer_than_its_timeout(dead_collector: str) -> None:
    tracing = Tracing("router", TelemetrySettings(otlp_endpoint=dead_collector, export_timeout_s=0.2))
    for _ in range(100):
        tracing.start("here").end()

    began = time.monotonic()
    tracing.close()

    assert time.monotonic() - began < 5  # the exporter's own default would be 30


def test_a_lost_collector_is_told_once_and_once_more_when_it_is_back(logged: Any) -> None:
    class Flaky(SpanExporter):
        results = iter([SpanExportResult.SUCCESS, *[SpanExportResult.FAILURE] * 3, SpanExportResult.SUCCESS])

        def export(self, spans: Any) -> SpanExportResult:
            return next(self.results)

    tracing = Tracing("router", exporter=Flaky())
    for _ in range(5):
        tracing.start("here").end()
        tracing.flush()
    tracing.close()

    assert [event["event"] for event in logged] == ["telemetry.collector_lost", "telemetry.collector_found"]
