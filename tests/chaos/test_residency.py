"""Random requests under random policies and faults: what may not leave never does, and every attempt is accounted."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from contextlib import AsyncExitStack, aclosing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis.asyncio import Redis

from services.router.cache_settings import CacheSettings
from spillway import v1
from spillway.errors import SpillwayError, TargetDown
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Cut, Fault, Garbage, Refuse, Script, SlowFirst
from spillway.testing.waiting import eventually
from tests.chaos.recorder import recording
from tests.integration.router.mesh import Mesh, running_mesh

pytestmark = pytest.mark.chaos

REQUESTS = int(os.environ.get("SPILLWAY_REQUESTS", "1000"))
AT_ONCE = 32
FAULTS: tuple[Fault | None, ...] = (
    *(None,) * 8,
    Refuse(TargetDown("gone")),
    Cut(1),
    Garbage("{not json"),
    SlowFirst(0.02),
)


class Chance(Script):
    """A fault for some of the attempts."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def next(self) -> Fault | None:
        return self._rng.choice(FAULTS)


@dataclass(frozen=True)
class Asked:
    """One request and whether its content must stay."""

    canary: str
    spec: v1.GenerationSpec
    policy: v1.RoutingPolicy
    private: bool
    """No byte of it may leave the site."""
    sensitive: bool
    """Nothing of it may be kept."""


def ask(number: int, rng: random.Random) -> Asked:
    found = rng.choice(["", "", "", "flagged-", "lost-"])
    canary = f"canary-{found}{number}-{rng.getrandbits(64):016x}"
    residency = rng.choice(list(v1.Residency.values()))
    sensitivity = rng.choice(list(v1.Sensitivity.values()))
    regions = rng.choice([["us"], ["eu"], ["eu", "us"], []])
    policy = v1.RoutingPolicy(
        category=rng.choice(list(v1.Category.values())),
        task=rng.choice(list(v1.Task.values())),
        labels=rng.choice([[], ["health"], ["nightly"]]),
        strategy=rng.choice(list(v1.Strategy.values())),
        cache=rng.choice(list(v1.CacheMode.values())),
        delivery=v1.Delivery(mode=rng.choice(list(v1.DeliveryMode.values())), accepts_restart=rng.random() < 0.5),
        data_policy=v1.DataPolicy(residency=residency, sensitivity=sensitivity, regions=regions),
        inspect_input=rng.random() < 0.3,
    )
    message = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=f"Tell me of {canary} now.")])
    spec = v1.GenerationSpec(chat=v1.Chat(messages=[message]), request_id=f"r{number}")
    if rng.random() < 0.2:
        spec.constraint.json_schema = '{"type": "object"}'
    sensitive = (
        residency == v1.RESIDENCY_LOCAL_ONLY or sensitivity > v1.SENSITIVITY_INTERNAL or "health" in policy.labels
    )
    sensitive |= bool(found) and policy.inspect_input
    private = sensitive or (residency == v1.RESIDENCY_REGIONS and "us" not in regions)
    return Asked(canary, spec, policy, private, sensitive)


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
        tracing = Tracing("router", exporter=exporter)
        mesh = await stack.enter_async_context(
            running_mesh(
                include=("decision_matrix",),
                local=local,
                cache=cache,
                cloud_address=recorder.address,
                tracing=tracing,
                finds=finds,
                inspect_timeout_s=60,
            )
        )
        requests = [ask(number, rng) for number in range(REQUESTS)]
        seats, ends = asyncio.Semaphore(AT_ONCE), Counter[str]()

        async def one(asked: Asked) -> None:
            async with seats:
                ends[await run(mesh, asked, rng)] += 1

        await asyncio.gather(*map(one, requests))
        await eventually(lambda: not local.running and not cloud.running)
        assert mesh.cache is not None
        await eventually(lambda: mesh.cache is not None and not mesh.cache.waiting)
        kept = await everything(valkey)
        tracing.flush()
    spans = repr([(span.name, dict(span.attributes or {}), span.events) for span in exporter.get_finished_spans()])
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
    assert all(attempt.settled and attempt.record.outcome for attempt in mesh.kept)
    assert len(mesh.kept) == len(local.seen) + len(cloud.seen)
    assert all(not attempt.record.left_site for attempt in mesh.kept if attempt.target.name == "local")


async def finds(text: str) -> list[str]:
    """What the validator finds in a prompt; some it never sees the end of."""
    if "canary-lost-" in text:
        raise TargetDown("the validator died")
    return ["badge"] if "canary-flagged-" in text else []


def echoed(spec: v1.GenerationSpec) -> str:
    """The conversation back, as JSON where that is asked for."""
    text = " ".join(part.text for message in spec.chat.messages for part in message.parts)
    return json.dumps({"said": text}) if spec.HasField("constraint") else text


async def everything(url: str) -> bytes:
    """All that the store holds, keys and values."""
    client = Redis.from_url(url)
    found = b""
    async for key in client.scan_iter():
        found += key + b"\0" + (await client.dump(key) or b"")
        if await client.type(key) == b"string":
            found += await client.get(key) or b""
    await client.aclose()
    return found
