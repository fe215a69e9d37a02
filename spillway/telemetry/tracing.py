"""Tracing by explicit spans: a parent is passed, never attached, so that nothing leaks across `yield` or `await`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from spillway.settings import TelemetrySettings
from spillway.telemetry import names
from spillway.telemetry.identity import resource

TRACEPARENT = "traceparent"
_W3C = TraceContextTextMapPropagator()
_ROOT = Context()
_chance = Random()
"""Its own: vLLM seeds that of the process, in every engine alike."""
log = structlog.get_logger(module=__name__)


class Tracing:
    """Starts spans for one service. Without an endpoint nothing is recorded, and the caller's trace still passes on."""

    def __init__(
        self, service: str, settings: TelemetrySettings | None = None, *, exporter: SpanExporter | None = None
    ):
        settings = settings or TelemetrySettings()
        self._provider: TracerProvider | None = None
        self._export_timeout_s = settings.export_timeout_s
        self._sampled = 1.0 if exporter is None and not settings.otlp_endpoint else settings.sample_ratio
        if exporter is None and settings.otlp_endpoint:
            # A third of a client's start-up, and most clients export nothing.
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(
                endpoint=settings.otlp_endpoint,
                insecure=settings.otlp_endpoint.startswith("http://"),
                timeout=settings.export_timeout_s,
            )
        if exporter is None:
            self._tracer: trace.Tracer = trace.NoOpTracer()
            return
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),  # `start` draws for traces that begin here
            resource=resource(service, settings),
            shutdown_on_exit=False,
            id_generator=_Ids(),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _Told(exporter),
                schedule_delay_millis=settings.export_interval_s * 1000,
                export_timeout_millis=settings.export_timeout_s * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("spillway")

    def start(
        self,
        name: str,
        parent: Span | Context | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Span:
        """Start a span under `parent`, or a new trace. The caller ends it, in a `finally`.

        Under a span of a trace that is not sampled it is that span: nothing will be recorded, and the trace is carried
        on as it came.
        """
        if parent is not None and not isinstance(parent, Context):  # which is quicker to tell than a Span
            known = parent.get_span_context()
            if self._provider is None or (known.is_valid and not known.trace_flags.sampled):
                # One that records is somebody else's, who ends it and says what it tells.
                return NonRecordingSpan(known) if parent.is_recording() else parent
            parent = trace.set_span_in_context(parent, _ROOT) if known.is_valid else None
        if not parent and _chance.random() >= self._sampled:
            # Here and not in a sampler: the SDK takes several times as long to make a span that records nothing.
            return NonRecordingSpan(SpanContext(_chance.getrandbits(128), _chance.getrandbits(64), is_remote=False))
        return self._tracer.start_span(name, context=parent or _ROOT, kind=kind, attributes=attributes)

    def flush(self) -> None:
        """Send what is waiting; returns after the export timeout at the latest."""
        if self._provider is not None:
            self._provider.force_flush(round(self._export_timeout_s * 1000))

    def close(self) -> None:
        """Send what is waiting and stop."""
        if self._provider is not None:
            self._provider.shutdown()


class _Ids(IdGenerator):
    def generate_span_id(self) -> int:
        return _chance.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return _chance.getrandbits(128) or 1

    def is_trace_id_random(self) -> bool:
        return True


class _Told(SpanExporter):
    """An exporter that logs when the collector is lost and when it is back, not each export in between."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._reached = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if (result is SpanExportResult.SUCCESS) != self._reached:
            self._reached = not self._reached
            if self._reached:
                log.info("telemetry.collector_found")
            else:
                log.warning("telemetry.collector_lost", consequence="spans are dropped until it answers")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def extract(metadata: Mapping[str, str]) -> Context | None:
    """Return the caller's trace context, or None if it sent none."""
    return _W3C.extract(metadata, _ROOT) if TRACEPARENT in metadata else None


def inject(span: Span) -> dict[str, str]:
    """Return the headers that carry `span` to the next service; empty if there is no trace."""
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    # As OpenTelemetry's propagator writes them, which asks for a context around the span: it takes ten times as long.
    told = {TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    if context.trace_state:
        told["tracestate"] = context.trace_state.to_header()
    return told


def fail(span: Span, reason: str, description: str = "") -> None:
    """Mark `span` as failed for `reason` (a name of the contract, never a text of a user)."""
    if span.is_recording():
        span.set_attribute(names.ERROR_TYPE, reason)
        span.set_status(Status(StatusCode.ERROR, description or reason))


def trace_id(span: Span) -> str:
    """Return the trace id as 32 hex digits, or an empty string."""
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
