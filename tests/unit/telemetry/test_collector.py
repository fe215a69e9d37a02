from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from spillway.settings import TelemetrySettings
from spillway.telemetry import names
from spillway.telemetry.collector import Collector, connected, read_trace
from spillway.telemetry.tracing import Tracing, fail, trace_id


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector(max_traces=2).serving() as collector:
        yield collector


def tracing_to(collector: Collector, service: str) -> Tracing:
    return Tracing(service, TelemetrySettings(otlp_endpoint=collector.endpoint, export_interval_s=0.05))


async def test_a_trace_of_two_services_is_whole_once_both_have_reported(collector: Collector) -> None:
    client, router = tracing_to(collector, "client"), tracing_to(collector, "router")
    root = client.start("root")
    child = router.start("child", root)
    child.set_attributes({names.TARGET: "local", names.INPUT_TOKENS: 3})
    fail(child, "TARGET_DOWN")
    child.end()
    await asyncio.to_thread(router.close)
    early = await collector.trace(trace_id(root), until=lambda spans: True, timeout_s=0.1)
    assert [span.name for span in early] == ["child"]
    assert not connected(early)
    root.end()
    await asyncio.to_thread(client.close)
    spans = await collector.trace(trace_id(root), until=lambda spans: len(spans) == 2)
    assert [(span.service, span.name, span.error) for span in spans] == [
        ("client", "root", ""),
        ("router", "child", "TARGET_DOWN"),
    ]
    assert spans[1].parent_id == spans[0].span_id
    assert spans[1].attributes == {names.TARGET: "local", names.INPUT_TOKENS: 3, names.ERROR_TYPE: "TARGET_DOWN"}
    assert spans[0].duration_ms >= spans[1].duration_ms >= 0
    assert await collector.trace(trace_id(root), quiet_s=0.01) == spans
    assert await read_trace(collector.endpoint, trace_id(root), until=lambda spans: len(spans) == 2) == spans


async def test_only_the_last_traces_are_kept(collector: Collector) -> None:
    tracing = tracing_to(collector, "client")
    ids = []
    for _ in range(3):
        span = tracing.start("root")
        span.end()
        ids.append(trace_id(span))
        await asyncio.to_thread(tracing.flush)
        await collector.trace(ids[-1], until=lambda spans: True)
    assert [len(collector.spans(id)) for id in ids] == [0, 1, 1]
    await asyncio.to_thread(tracing.close)


async def test_what_never_comes_is_not_waited_for_longer_than_told(collector: Collector) -> None:
    assert await collector.trace("0" * 32, until=lambda spans: True, timeout_s=0.05) == []
    assert await read_trace("http://127.0.0.1:1", "0" * 32, until=lambda spans: True, timeout_s=0.05) == []
