"""What Prometheus scrapes. Apart, because who is not scraped need not load it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import MetricsData
from prometheus_client import CollectorRegistry

from spillway.telemetry.histogram import Histogram, told_with


class ScrapedReader(PrometheusMetricReader):
    """Tells `registry` what the SDK has collected, and `histograms` beside it."""

    def __init__(self, registry: CollectorRegistry, histograms: Sequence[Histogram]) -> None:
        super().__init__(registry=registry, scope_info_enabled=False)
        self._histograms = histograms

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(told_with(metrics_data, self._histograms), timeout_millis, **kwargs)

    def __repr__(self) -> str:
        return f"<ScrapedReader {len(self._histograms)} histograms>"
