from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from services.local_engine.lease_measures import LeaseMeasures
from spillway.telemetry import names


def test_waits_and_losses_are_told_apart_by_lease_and_cause() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    measures = LeaseMeasures(provider.get_meter("test"), "runtime")
    measures.acquired(0.5)
    measures.acquired(1.5)
    measures.lost("ended")
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        (metric.name, tuple(dict(point.attributes or {}).items())): point.value
        if isinstance(point, NumberDataPoint)
        else point.sum
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    assert found == {
        (names.LEASE_WAIT, ((names.LEASE, "runtime"),)): 2.0,
        (names.LEASE_LOST, ((names.LEASE, "runtime"), (names.ERROR_TYPE, "ended"))): 1,
    }
    provider.shutdown()
