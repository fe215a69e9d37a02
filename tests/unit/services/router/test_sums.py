from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from services.router.settings import RouterSettings, RouterTelemetrySettings
from services.router.sums import Sums
from services.router.sums import scraped as scraping
from spillway.supervisor import Supervisor


class Worker:
    """What one worker counts, where Prometheus might scrape it."""

    def __init__(self, number: int) -> None:
        registry = CollectorRegistry()
        self.provider = MeterProvider(
            [PrometheusMetricReader(registry=registry, scope_info_enabled=False)],
            resource=Resource({"service.name": "router", "service.instance.id": f"host/{number}"}),
        )
        meter = self.provider.get_meter("test")
        self.calls = meter.create_counter("calls")
        self.waits = meter.create_histogram("waits", "s", explicit_bucket_boundaries_advisory=[1.0, 10.0])
        self.rows = meter.create_up_down_counter("rows")
        self.server, _ = start_http_server(0, "127.0.0.1", registry)

    @property
    def told(self) -> Mapping[str, str]:
        return {"metrics": f"127.0.0.1:{self.server.server_port}"}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.provider.shutdown()


@contextmanager
def two() -> Iterator[tuple[Worker, Worker]]:
    first, second = Worker(0), Worker(1)
    try:
        yield first, second
    finally:
        first.close()
        second.close()


def scraped(sums: Sums) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(sums)
    page = generate_latest(registry).decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def of(found: Mapping[Any, float], name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_counters_buckets_and_what_waits_are_the_sums_of_all_workers() -> None:
    with two() as (first, second):
        first.calls.add(2, {"target": "a"})
        second.calls.add(3, {"target": "a"})
        second.calls.add(1, {"target": "b"})
        first.waits.record(0.5)
        second.waits.record(5)
        first.rows.add(4)
        second.rows.add(1)
        found = scraped(Sums(lambda: {1: first.told, 2: second.told}))
    assert (of(found, "calls_total", target="a"), of(found, "calls_total", target="b")) == (5, 1)
    assert [of(found, "waits_seconds_bucket", le=le) for le in ("1.0", "10.0", "+Inf")] == [1, 2, 2]
    assert (of(found, "waits_seconds_sum"), of(found, "waits_seconds_count")) == (5.5, 2)
    assert of(found, "rows") == 5


def test_what_a_dead_worker_counted_stays_and_what_waited_in_it_does_not() -> None:
    with two() as (first, second):
        first.calls.add(2)
        second.calls.add(3)
        second.rows.add(7)
        told = {1: first.told, 2: second.told}
        sums = Sums(lambda: told)
        assert of(scraped(sums), "calls_total") == 5
        del told[2]
        assert [of(scraped(sums), "calls_total") for _ in range(2)] == [5, 5]
        assert ("rows", frozenset[tuple[str, str]]()) not in scraped(sums)
        first.calls.add(1)
        assert of(scraped(sums), "calls_total") == 6


def test_of_a_worker_that_does_not_answer_the_last_word_counts() -> None:
    with two() as (first, second):
        second.calls.add(3)
        told = {1: first.told, 2: second.told}
        sums = Sums(lambda: told)
        assert of(scraped(sums), "calls_total") == 3
        told[2] = {"metrics": "127.0.0.1:1"}
        assert of(scraped(sums), "calls_total") == 3


def test_a_label_without_a_value_is_the_series_without_the_label() -> None:
    with two() as (first, second):
        first.calls.add(2, {"target": "a"})
        second.calls.add(3, {"target": "a"})
        second.calls.add(1, {"target": "a", "error": "down"})
        found = scraped(Sums(lambda: {1: first.told, 2: second.told}))
    assert {key: value for key, value in found.items() if key[0] == "calls_total"} == {
        ("calls_total", frozenset({("target", "a")})): 5,
        ("calls_total", frozenset({("target", "a"), ("error", "down")})): 1,
    }


def test_workers_are_asked_past_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the environment that it was made in
    with two() as (first, _):
        first.calls.add(2)
        assert of(scraped(Sums(lambda: {1: first.told})), "calls_total") == 2


async def test_who_is_scraped_is_told_once_and_without_the_workers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    with two() as (first, second):
        settings = RouterSettings(telemetry=RouterTelemetrySettings(metrics_listen=listen))
        supervisor = Supervisor(settings, asyncio.Event())
        supervisor.told = {1: first.told, 2: second.told}
        async with scraping(settings, supervisor):
            page = await asyncio.to_thread(read, f"http://{listen}/metrics")
    assert [line for line in page.splitlines() if line.startswith("target_info")] == [
        'target_info{service_name="router"} 1.0'
    ]
