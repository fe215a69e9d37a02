"""Random requests under random policies and faults: what may not leave never does, and every attempt is accounted."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import AsyncExitStack, aclosing, redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis.asyncio import Redis

from services.router.breaker_scripts import probes
from services.router.cache_settings import CacheSettings
from services.router.condensation import SUMMARIZE
from services.router.confidence import TEMPERATURE
from services.router.policy_settings import PolicySettings
from spillway import v1
from spillway.errors import SpillwayError
from spillway.settings import StoreSettings, TelemetrySettings
from spillway.store.embedded import embedded_valkey
from spillway.store.redis import DRIVER
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.waiting import eventually
from tests.chaos.recorder import recording
from tests.chaos.requests import KEPT_DAYS, Asked, Chance, ask, echoed, everything, finds
from tests.integration.router.mesh import Mesh, running_mesh

pytestmark = pytest.mark.chaos

REQUESTS = int(os.environ.get("SPILLWAY_REQUESTS", "1000"))
AT_ONCE = 32


async def run(mesh: Mesh, asked: Asked, rng: random.Random) -> str:
    """How the request ended."""
    try:
        if rng.random() < 0.5:
            await mesh.generate(asked.spec, asked.policy)
        else:
            leaves = rng.random() < 0.2
            async with aclosing(mesh.stream(asked.spec, asked.policy)) as events:
                async for event in events:
                    if leaves and event.HasField("delta"):
                        return "left"
    except SpillwayError as error:
        return error.reason
    return "answered"


async def test_no_byte_of_private_content_leaves_and_every_attempt_is_accounted_once() -> None:
    rng = random.Random(20261121)
    exporter, said = InMemorySpanExporter(), StringIO()
    async with AsyncExitStack() as stack:
        stack.enter_context(redirect_stdout(said))
        stack.enter_context(redirect_stderr(said))
        valkey = await stack.enter_async_context(embedded_valkey())
        cloud = FakeEngine(model="openai/big", faults=Chance(rng), answer=echoed)
        server = await stack.enter_async_context(serving_engine(cloud))
        recorder = await stack.enter_async_context(recording(server.address))
        cache = CacheSettings(enabled=True, by_default=True, store=StoreSettings(url=valkey), sensitive_ttl_s=None)
        local = FakeEngine(model="small", faults=Chance(rng), answer=echoed)
        tracing = Tracing("router", TelemetrySettings(export_interval_s=0.05), exporter=exporter)
        mesh = await stack.enter_async_context(
            running_mesh(
                PolicySettings(judge="cloud", samples=2),
                include=("decision_matrix",),
                local=local,
                cache=cache,
                cloud_address=recorder.address,
                retention_days=KEPT_DAYS,
                tracing=tracing,
                finds=finds,
                inspect_timeout_s=60,
                store=StoreSettings(url=valkey),
                scores=lambda asked: rng.random(),
            )
        )
        assert mesh.router is not None
        gate, loads = mesh.router.gate, mesh.router.loads
        requests = [ask(number, rng) for number in range(REQUESTS)]
        seats, ends = asyncio.Semaphore(AT_ONCE), Counter[str]()

        async def one(asked: Asked) -> None:
            async with seats:
                ends[await run(mesh, asked, rng)] += 1

        await asyncio.gather(*map(one, requests))
        await eventually(lambda: not local.running and not cloud.running)
        assert mesh.cache is not None
        await eventually(lambda: mesh.cache is not None and not mesh.cache.waiting)
        await eventually(lambda: not gate.admission.running and not gate.admission.waiting)
        await eventually(lambda: not any(each.in_flight for each in loads.snapshot().values()))
        await eventually(lambda: all(attempt.settled for attempt in mesh.kept))
        await no_lease(valkey)
        kept = await everything(valkey)
        tracing.flush()
    finished = exporter.get_finished_spans()
    ended = {span.context.span_id for span in finished if span.context is not None}
    assert all(span.parent.is_remote or span.parent.span_id in ended for span in finished if span.parent is not None)
    assert sum(span.name == names.ATTEMPT for span in finished) == len(mesh.kept), "every attempt's span has ended"
    spans = repr([(span.name, dict(span.attributes or {}), span.events) for span in finished])
    left = bytes(recorder.left)
    private = [asked.canary for asked in requests if asked.private]
    clean = [asked.canary for asked in requests if asked.policy.inspect_input and not asked.private]
    assert sum(canary.encode() in left for canary in clean) > 0, "what was inspected and is clean may leave"
    open_ = [asked.canary for asked in requests if not asked.private]
    assert len(private) > REQUESTS / 4
    assert sum(canary.encode() in left for canary in open_) > REQUESTS / 40, "the recorder sees what leaves"
    assert sum(canary.encode() in kept for canary in open_) > 0, "the cache keeps what it may"
    assert [canary for canary in private if canary.encode() in left] == []
    assert [asked.canary for asked in requests if asked.sensitive and asked.canary.encode() in kept] == []
    assert "canary-" not in spans
    assert "canary-" not in said.getvalue()
    assert ends["answered"] > REQUESTS / 2, ends
    assert ends["INTERNAL"] == 0, ends
    numbers = Counter((attempt.record.target, attempt.number, id(attempt)) for attempt in mesh.kept)
    assert max(numbers.values()) == 1
    assert any(SUMMARIZE in seen.request.spec.chat.messages[0].parts[0].text for seen in local.seen), "summaries are on"
    assert mesh.judged, "the judge is on"
    opinions = [seen.request for seen in cloud.seen if "Is the answer right" in echoed(seen.request.spec)]
    assert opinions, "the judge model is on"
    assert all(seen.HasField("stamp") for seen in opinions)
    assert any(seen.request.spec.sampling.temperature == pytest.approx(TEMPERATURE) for seen in local.seen), (
        "samples are on"
    )
    assert all(attempt.settled and attempt.record.outcome for attempt in mesh.kept)
    # One that was cancelled may never have arrived.
    unseen = len(mesh.kept) - len(local.seen) - len(cloud.seen)
    assert 0 <= unseen <= sum(attempt.record.outcome == v1.ATTEMPT_OUTCOME_CANCELLED for attempt in mesh.kept)
    assert all(not attempt.record.left_site for attempt in mesh.kept if attempt.target.name == "local")


async def no_lease(url: str) -> None:
    """Wait until no probe is leased on the store. Raises TimeoutError."""
    client = Redis.from_url(url, driver_info=DRIVER)
    async with asyncio.timeout(10):
        while [key async for key in client.scan_iter(f"{probes('')}*")]:  # noqa: ASYNC110 - the store tells of no change
            await asyncio.sleep(0.05)
    await client.aclose()
