"""Histograms that are counted here and told when metrics are collected.

OpenTelemetry's SDK takes 15 us and more for every measurement and reader, most of it to find the series and to ask for
exemplars; here it is the entry of a dictionary and a bisection. What is told is what the SDK would tell: cumulative
counts by explicit bounds, a bound belonging to the bucket below it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from opentelemetry.sdk.metrics import export

MAX_SERIES: Final = 2000
"""Of one histogram, as in the SDK: further ones are counted together."""
OVERFLOW: Final = (("otel.metric.overflow", True),)
"""The attributes of that series."""

Attributes = tuple[tuple[str, str | bool], ...]


class Histogram:
    """How many measurements fell between which bounds, by attributes. `wall`: nanoseconds since the epoch.

    One thread records; others may ask for the `metric` meanwhile, whose sum may then lack the last measurement.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        bounds: Sequence[float],
        *,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._name, self._unit, self._description = name, unit, description
        self._bounds = tuple(bounds)
        self._wall = wall
        self._series: dict[Attributes, _Series] = {}

    def record(self, value: float, attributes: Mapping[str, str] | Attributes) -> None:
        """Count `value` under `attributes`; who has them as a tuple pays for no dictionary."""
        key: Attributes = attributes if isinstance(attributes, tuple) else tuple(attributes.items())
        series = self._series.get(key)
        if series is None:
            key = key if len(self._series) < MAX_SERIES else OVERFLOW
            series = self._series.setdefault(key, _Series(len(self._bounds) + 1, value, self._wall()))
        series.counts[bisect_left(self._bounds, value)] += 1
        series.sum += value
        if value < series.least:
            series.least = value
        elif value > series.most:
            series.most = value

    def metric(self) -> export.Metric:
        """All that was counted, as readers of metrics take it."""
        now = self._wall()
        points = [series.point(key, self._bounds, now) for key, series in list(self._series.items())]
        data = export.Histogram(points, export.AggregationTemporality.CUMULATIVE)
        return export.Metric(self._name, self._description, self._unit, data)

    def __bool__(self) -> bool:
        """Whether anything was recorded."""
        return bool(self._series)

    def __repr__(self) -> str:
        return f"<Histogram {self._name} {len(self._series)} series>"


def told_with(data: export.MetricsData, histograms: Sequence[Histogram]) -> export.MetricsData:
    """Return what the SDK has collected with `histograms` beside it."""
    first, *others = data.resource_metrics
    scope, *scopes = first.scope_metrics
    scope = replace(scope, metrics=[*scope.metrics, *(each.metric() for each in histograms if each)])
    return export.MetricsData([replace(first, scope_metrics=[scope, *scopes]), *others])


class _Series:
    __slots__ = ("_since", "counts", "least", "most", "sum")

    def __init__(self, buckets: int, first: float, since: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0
        self.least = self.most = first
        self._since = since

    def point(self, told: Attributes, bounds: Sequence[float], now: int) -> export.HistogramDataPoint:
        counts = tuple(self.counts)
        return export.HistogramDataPoint(
            attributes=dict(told),
            start_time_unix_nano=self._since,
            time_unix_nano=now,
            count=sum(counts),
            sum=self.sum,
            bucket_counts=counts,
            explicit_bounds=bounds,
            min=self.least,
            max=self.most,
        )
