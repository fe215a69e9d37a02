"""A small collector of traces: OTLP over gRPC in, the last traces kept in memory, whole traces out.

`spillway up` embeds one on loopback so that a first run shows its traces without any other program. It keeps nothing on
disk and is no tracing backend: set `telemetry.otlp_endpoint` to a real one beyond that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as otlp_metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as otlp_metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status, TracesData

from spillway.rpc.options import channel_options, server_options

Value = str | bool | int | float
Until = Callable[[Sequence["SpanRecord"]], bool]

READ_SERVICE = "spillway.collector.Traces"
READ_METHOD = "Read"
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One span, as its service reported it. Times are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    error: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)

    @property
    def duration_ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6

    def __repr__(self) -> str:
        return (
            f"<SpanRecord {self.service} {self.name} {self.duration_ms:.1f} ms{' ' + self.error if self.error else ''}>"
        )


class Measured(otlp_metrics_grpc.MetricsServiceServicer):
    """Takes metrics, so that services need not be told to keep them; remembers what each service sent last."""

    def __init__(self) -> None:
        self.last: dict[str, ResourceMetrics] = {}

    async def Export(
        self, request: otlp_metrics.ExportMetricsServiceRequest, context: object
    ) -> otlp_metrics.ExportMetricsServiceResponse:
        """Take metrics, as OTLP sends them."""
        for one in request.resource_metrics:
            self.last[str(_values(one.resource.attributes).get("service.name", "?"))] = one
        return otlp_metrics.ExportMetricsServiceResponse()

    def __repr__(self) -> str:
        return f"<Measured of {', '.join(self.last) or 'nobody'}>"


class Collector(otlp_grpc.TraceServiceServicer):
    """Keeps the spans of the last `max_traces` traces that were heard of."""

    def __init__(self, max_traces: int = 200) -> None:
        self._traces: OrderedDict[str, dict[str, SpanRecord]] = OrderedDict()
        self._raw: dict[str, list[ResourceSpans]] = {}
        self._max_traces = max_traces
        self._news = asyncio.Event()
        self.endpoint = ""
        self.measured = Measured()

    async def Export(self, request: otlp.ExportTraceServiceRequest, context: object) -> otlp.ExportTraceServiceResponse:
        """Take spans, as OTLP sends them."""
        for one in split(request.resource_spans):
            trace_id = one.scope_spans[0].spans[0].trace_id.hex()
            spans = self._traces.setdefault(trace_id, {})
            spans.update((span.span_id, span) for span in records([one]))
            self._traces.move_to_end(trace_id)
            self._raw.setdefault(trace_id, []).append(one)
        while len(self._traces) > self._max_traces:
            oldest, _ = self._traces.popitem(last=False)
            self._raw.pop(oldest, None)
        self._news.set()
        self._news = asyncio.Event()
        return otlp.ExportTraceServiceResponse()

    def spans(self, trace_id: str) -> list[SpanRecord]:
        """Return what has come of a trace, by start."""
        return sorted(self._traces.get(trace_id, {}).values(), key=lambda span: span.start_ns)

    async def trace(
        self, trace_id: str, *, until: Until | None = None, quiet_s: float = 1.5, timeout_s: float = 10.0
    ) -> list[SpanRecord]:
        """Wait until `until(spans)` holds and the spans are all connected; return the spans by start.

        Without `until`, wait until nothing more has come for `quiet_s` seconds. After `timeout_s` seconds return what
        there is.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    spans, news = self.spans(trace_id), self._news
                    if until is not None and spans and connected(spans) and until(spans):
                        break
                    try:
                        await asyncio.wait_for(news.wait(), quiet_s if until is None and spans else None)
                    except TimeoutError:
                        if until is None and len(self.spans(trace_id)) == len(spans):
                            break
        return self.spans(trace_id)

    async def _read(self, request: StringValue, context: object) -> TracesData:
        return TracesData(resource_spans=self._raw.get(request.value, []))

    @asynccontextmanager
    async def serving(self, listen: str = "127.0.0.1:0") -> AsyncIterator[Collector]:
        """Listen for the block; `endpoint` is what services are told. Raises OSError if the port is taken."""
        server = grpc.aio.server(options=server_options(max_receive_bytes=MAX_BYTES))
        otlp_grpc.add_TraceServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        otlp_metrics_grpc.add_MetricsServiceServicer_to_server(self.measured, server)  # type: ignore[no-untyped-call]
        read = grpc.unary_unary_rpc_method_handler(
            self._read,
            request_deserializer=StringValue.FromString,
            response_serializer=TracesData.SerializeToString,
        )
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(READ_SERVICE, {READ_METHOD: read})])
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {listen}: {error}") from None
        self.endpoint = f"http://{listen.rpartition(':')[0]}:{port}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)

    def __repr__(self) -> str:
        return f"<Collector {self.endpoint or 'not serving'} {len(self._traces)}/{self._max_traces} traces>"


async def read_trace(
    endpoint: str, trace_id: str, *, until: Until, timeout_s: float = 10.0, every_s: float = 0.25
) -> list[SpanRecord]:
    """Ask the collector at `endpoint` for a trace until `until(spans)` holds; return the spans by start.

    After `timeout_s` seconds return what there is, and nothing if there is no collector.
    """
    spans: list[SpanRecord] = []
    address = endpoint.removeprefix("http://")
    async with grpc.aio.insecure_channel(address, options=channel_options(max_receive_bytes=MAX_BYTES)) as channel:
        read: grpc.aio.UnaryUnaryMultiCallable[StringValue, TracesData] = channel.unary_unary(
            f"/{READ_SERVICE}/{READ_METHOD}",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=TracesData.FromString,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        found = await read(StringValue(value=trace_id), timeout=2)
                    except grpc.aio.AioRpcError:
                        found = TracesData()
                    spans = sorted({span.span_id: span for span in records(found.resource_spans)}.values(), key=_start)
                    if spans and connected(spans) and until(spans):
                        break
                    await asyncio.sleep(every_s)
    return spans


def connected(spans: Iterable[SpanRecord]) -> bool:
    """Whether every parent named is there, and exactly one span is the root."""
    known = {span.span_id for span in spans}
    return sum(span.parent_id not in known for span in spans) == 1 and any(not span.parent_id for span in spans)


def split(batches: Iterable[ResourceSpans]) -> list[ResourceSpans]:
    """Return `batches` so that each holds the spans of one trace and one scope."""
    found: list[ResourceSpans] = []
    for batch in batches:
        for scope in batch.scope_spans:
            by_trace: dict[bytes, list[Span]] = {}
            for span in scope.spans:
                by_trace.setdefault(span.trace_id, []).append(span)
            found.extend(
                ResourceSpans(resource=batch.resource, scope_spans=[ScopeSpans(scope=scope.scope, spans=spans)])
                for spans in by_trace.values()
            )
    return found


def records(batches: Iterable[ResourceSpans]) -> list[SpanRecord]:
    """Return every span of `batches`."""
    found = []
    for batch in batches:
        service = _values(batch.resource.attributes).get("service.name", "?")
        found += [_record(span, str(service)) for scope in batch.scope_spans for span in scope.spans]
    return found


def _record(span: Span, service: str) -> SpanRecord:
    failed = span.status.code == Status.STATUS_CODE_ERROR
    return SpanRecord(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        service=service,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        error=(span.status.message or "ERROR") if failed else "",
        attributes=_values(span.attributes),
    )


def _values(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    if kind in ("string_value", "bool_value", "int_value", "double_value"):
        found: Value = getattr(value, kind)
        return found
    return str(value).strip()


def _start(span: SpanRecord) -> int:
    return span.start_ns
