"""Metrics of one service: pushed to a collector, scraped by Prometheus, both, or neither."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from opentelemetry.metrics import Meter, NoOpMeter
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

from spillway.settings import TelemetrySettings
from spillway.telemetry import histogram
from spillway.telemetry.identity import resource

log = structlog.get_logger(module=__name__)

BUCKETS = {
    # OpenTelemetry's for gen_ai.client.operation.duration, with two more at each end.
    "s": (0.0025, 0.005, *(0.01 * 2**power for power in range(14)), 163.84, 327.68),
    "{token}": tuple(4.0**power for power in range(14)),
    "{USD}": (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
}
"""Unit -> bounds of the buckets of every histogram in it: the default ones are made for milliseconds."""


class Metrics:
    """Gives out a meter. With nowhere to send to it records nothing.

    `listen` is the host:port that Prometheus scrapes; raises OSError if it is taken. `address` is the real one.
    """

    def __init__(self, service: str, settings: TelemetrySettings, *, listen: str | None = None) -> None:
        self.address = ""
        self._provider: MeterProvider | None = None
        self._timeout_s = settings.export_timeout_s
        self._histograms: list[histogram.Histogram] = []
        self.meter: Meter = NoOpMeter("spillway")
        readers: list[MetricReader] = []
        self._scraped = None
        if listen is not None:
            from prometheus_client import CollectorRegistry, start_http_server

            from spillway.telemetry.scraped import ScrapedReader

            registry = CollectorRegistry()
            readers.append(ScrapedReader(registry, self._histograms))
            host, _, port = listen.rpartition(":")
            self._scraped, _ = start_http_server(int(port), host.strip("[]") or "0.0.0.0", registry)
            self.address = f"{host}:{self._scraped.server_port}"
        if settings.otlp_endpoint:
            # A fifth of a service's start-up, and many export nothing.
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

            exporter = OTLPMetricExporter(
                endpoint=settings.otlp_endpoint,
                insecure=settings.otlp_endpoint.startswith("http://"),
                timeout=settings.export_timeout_s,
            )
            readers.append(
                PeriodicExportingMetricReader(
                    _Told(exporter, self._histograms),
                    export_interval_millis=settings.metrics_interval_s * 1000,
                    export_timeout_millis=settings.export_timeout_s * 1000,
                )
            )
        if readers:
            self._provider = MeterProvider(
                readers,
                resource=resource(service, settings),
                shutdown_on_exit=False,
                views=[
                    View(
                        instrument_type=Histogram,
                        instrument_unit=unit,
                        aggregation=ExplicitBucketHistogramAggregation(bounds),
                    )
                    for unit, bounds in BUCKETS.items()
                ],
            )
            self.meter = self._provider.get_meter("spillway")

    def histogram(self, name: str, unit: str, description: str) -> histogram.Histogram:
        """Return a histogram for the path of a request: `meter` has those that may cost more.

        It is told with what the meter has to tell, so it takes a meter that has something.
        """
        found = histogram.Histogram(name, unit, description, BUCKETS[unit])
        self._histograms.append(found)
        return found

    @property
    def recording(self) -> bool:
        """Whether what is measured goes anywhere."""
        return self._provider is not None

    def flush(self) -> None:
        """Send what there is; returns after the export timeout at the latest."""
        if self._provider is not None:
            self._provider.force_flush(self._timeout_s * 1000)

    def close(self) -> None:
        """Send what there is and stop. Blocks up to the export timeout: for a thread of its own."""
        if self._scraped is not None:
            self._scraped.shutdown()
            self._scraped.server_close()
        if self._provider is not None:
            self._provider.shutdown(self._timeout_s * 1000)

    def __repr__(self) -> str:
        return f"<Metrics {'recorded' if self.recording else 'off'}{' at ' + self.address if self.address else ''}>"


class _Told(MetricExporter):
    """An exporter that logs when the collector takes no metrics and when it does again, not each export in between."""

    def __init__(self, exporter: MetricExporter, histograms: Sequence[histogram.Histogram]) -> None:
        super().__init__()
        self._exporter = exporter
        self._histograms = histograms
        self._reached = True

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object) -> MetricExportResult:
        result = self._exporter.export(histogram.told_with(metrics_data, self._histograms), timeout_millis)
        if (result is MetricExportResult.SUCCESS) != self._reached:
            self._reached = not self._reached
            if self._reached:
                log.info("telemetry.metrics_taken")
            else:
                log.warning("telemetry.metrics_not_taken", consequence="they are sent again, summed up, next time")
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        self._exporter.shutdown(timeout_millis)
