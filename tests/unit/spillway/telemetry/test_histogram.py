from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric, MetricsData
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

from spillway.telemetry.histogram import MAX_SERIES, Histogram, told_with

BOUNDS = (0.1, 1.0, 10.0)
MEASURED = ((0.05, {"task": "chat"}), (0.1, {"task": "chat"}), (3.0, {"task": "code"}), (99.0, {"task": "chat"}))


def told(data: MetricsData | None) -> Sequence[Metric]:
    assert data is not None
    return [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]


def points(metric: Metric) -> dict[str, tuple[object, ...]]:
    """Series -> all that a point says but when."""
    found: dict[str, tuple[object, ...]] = {}
    for point in metric.data.data_points:
        assert isinstance(point, HistogramDataPoint)
        assert point.attributes is not None
        found[str(point.attributes["task"])] = (
            *(point.count, point.sum, point.min, point.max),
            *(tuple(point.bucket_counts), tuple(point.explicit_bounds)),
        )
    return found


def test_what_is_told_is_what_the_sdk_would_tell() -> None:
    own, reader = Histogram("took", "s", "how long it took", BOUNDS), InMemoryMetricReader()
    view = View(instrument_type=SdkHistogram, aggregation=ExplicitBucketHistogramAggregation(BOUNDS))
    provider = MeterProvider([reader], shutdown_on_exit=False, views=[view])
    sdk = provider.get_meter("test").create_histogram("took", "s", "how long it took")
    for value, attributes in MEASURED:
        own.record(value, attributes)
        sdk.record(value, attributes)
    [wanted], found = told(reader.get_metrics_data()), own.metric()
    provider.shutdown()
    assert points(found) == points(wanted)
    assert (found.name, found.unit, found.description) == (wanted.name, wanted.unit, wanted.description)


def test_it_is_told_beside_what_the_sdk_has_and_only_once_it_has_something_to_tell() -> None:
    reader, recorded, silent = InMemoryMetricReader(), Histogram("one", "s", "", BOUNDS), Histogram("two", "s", "", ())
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("test").create_counter("counted").add(1)
    recorded.record(0.5, {"task": "chat"})
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    assert [metric.name for metric in told(told_with(data, [recorded, silent]))] == ["counted", "one"]


def test_a_series_counts_on_and_says_since_when() -> None:
    moments = count(100)
    own = Histogram("took", "s", "", BOUNDS, wall=lambda: next(moments))
    own.record(0.5, {"task": "chat"})
    first = own.metric().data.data_points[0]
    own.record(0.5, {"task": "chat"})
    second = own.metric().data.data_points[0]
    assert isinstance(first, HistogramDataPoint)
    assert isinstance(second, HistogramDataPoint)
    assert (first.count, second.count) == (1, 2)
    assert (first.start_time_unix_nano, first.time_unix_nano) == (100, 101)
    assert (second.start_time_unix_nano, second.time_unix_nano) == (100, 102)


def test_series_beyond_the_bound_are_counted_together() -> None:
    own = Histogram("took", "s", "", BOUNDS)
    for number in range(MAX_SERIES + 3):
        own.record(1.0, {"task": str(number)})
    found = own.metric().data.data_points
    assert len(found) == MAX_SERIES + 1
    last = found[-1]
    assert isinstance(last, HistogramDataPoint)
    assert (last.attributes, last.count) == ({"otel.metric.overflow": True}, 3)
    assert repr(own) == f"<Histogram took {MAX_SERIES + 1} series>"
