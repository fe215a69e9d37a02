"""Routers killed at random moments, again and again: what the ledger says is still whole."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from redis.asyncio import Redis

from services.cloud_proxy.app import build as build_proxy
from services.cloud_proxy.settings import CloudProxySettings
from services.router.ledger_tables import ATTEMPTS, LOST, PENDING, ROUTERS
from spillway import audit, v1
from spillway.deadline import Deadline
from spillway.errors import SpillwayError
from spillway.generation import Folder
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.session.client import Session
from spillway.settings import StoreSettings
from spillway.store.redis import DRIVER
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.openai_faults import Cut, Faults, HttpFault, Reset, Status
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from spillway.v1 import inference_pb2_grpc
from tests.chaos.recorder import Recorder, recording
from tests.chaos.requests import Asked, Chance, ask, echoed, finds
from tests.integration.processes import started
from tests.integration.router.mesh import CAPABILITIES, FakeValidator, json_only, serving_validator

pytestmark = pytest.mark.chaos

REQUESTS = int(os.environ.get("SPILLWAY_REQUESTS", "200"))
KILLS = max(3, REQUESTS // 500)
AT_ONCE = 24
ROUTERS_AT_ONCE = 2
FOLLOWS = 6
"""Routers that a caller asks one after the other, when each has died under it."""
FAULTS: tuple[HttpFault | None, ...] = (*(None,) * 8, Status(500), Reset(), Cut(3))


class ProviderChance(Faults):
    """A fault for some of the calls."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def next(self) -> HttpFault | None:
        return self._rng.choice(FAULTS)


@dataclass
class Site:
    """Routers on one ledger and one store, and all that is behind them."""

    folder: Path
    section: dict[str, Any]
    local: FakeEngine
    direct: FakeEngine
    """A cloud that tells attempts apart by their stamps."""
    provider: OpenAISimulator
    """One behind the cloud proxy, which tells them apart by their prompts."""
    recorders: tuple[Recorder, Recorder]
    rng: random.Random
    stack: AsyncExitStack
    runs: int = 0
    running: dict[str, tuple[Remote, asyncio.subprocess.Process]] = field(default_factory=dict)
    sessions: dict[Remote, Session] = field(default_factory=dict)
    """Half of the requests go in them."""
    begun: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    told: dict[str, v1.Usage] = field(default_factory=dict)
    """The account that a caller got with its answer, by request."""

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.sqlite"

    async def start(self) -> str:
        """Start one more router; its name is its own."""
        self.runs += 1
        name = f"run{self.runs}"
        section = {**self.section, "name": name}
        address, process = await self.stack.enter_async_context(
            started("router", section, self.folder / f"{name}.yaml")
        )
        remote = Remote(address, tracing=Tracing("caller"), name=name)
        self.stack.push_async_callback(remote.close)
        self.sessions[remote] = Session(remote)
        self.stack.push_async_callback(self.sessions[remote].close)
        self.running[name] = remote, process
        return name

    async def kill(self, name: str) -> None:
        """End a router as a crash does."""
        _, process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def reached(self, requests: int) -> None:
        """Return when so many have begun."""
        await eventually(lambda: self.begun >= requests, 300)

    async def ask(self, asked: Asked) -> str:
        """Ask a router, and another one where that dies; return how it ended."""
        self.begun += 1
        for _ in range(FOLLOWS):
            await eventually(lambda: bool(self.running), 60)
            name = self.rng.choice(list(self.running))
            try:
                answer = await self._once(self.running[name][0], asked)
            except SpillwayError as error:
                if error.reason == "TARGET_DOWN" and name not in self.running:
                    continue
                return error.reason
            assert asked.spec.request_id not in self.told, "no request is answered twice"
            self.told[asked.spec.request_id] = answer.usage
            return "answered"
        return "gave up"

    async def _once(self, remote: Remote, asked: Asked) -> v1.GenerateResponse:
        stub = inference_pb2_grpc.InferenceServiceStub(remote.channel)
        call = Call("caller", Deadline.after(30))
        session = self.sessions[remote] if self.rng.random() < 0.5 else None
        if self.rng.random() < 0.5:
            request = v1.GenerateRequest(spec=asked.spec, policy=asked.policy)
            whole: Any = session.generate if session is not None else partial(remote.unary, stub.Generate)
            answer: v1.GenerateResponse = await whole(request, call, span_name="test")
            return answer
        folder = Folder()
        streamed = v1.StreamGenerateRequest(spec=asked.spec, policy=asked.policy)
        ask: Any = session.stream if session is not None else partial(remote.stream, stub.StreamGenerate)
        async with ask(streamed, call, span_name="test") as rpc:
            async for response in rpc:
                folder.add(response.event)
        return folder.whole()

    def rows(self) -> list[dict[str, Any]]:
        """Every attempt in the ledger, each with its router's name."""
        found = sql.select(ATTEMPTS, ROUTERS.c.name).join(ROUTERS, ROUTERS.c.id == ATTEMPTS.c.router)
        return self._read(found)

    def runs_ended(self) -> dict[str, str | None]:
        """How every run of a router ended."""
        return {row["name"]: row["ended"] for row in self._read(sql.select(ROUTERS))}

    def _read(self, what: sql.Select[Any]) -> list[dict[str, Any]]:
        engine = sql.create_engine(f"sqlite:///{self.ledger}")
        with engine.connect() as connection:
            found = [dict(row._mapping) for row in connection.execute(what)]
        engine.dispose()
        return found


async def opened(stack: AsyncExitStack, folder: Path, valkey: str, rng: random.Random) -> Site:
    """Serve all that routers are in front of; no router runs yet."""
    local = FakeEngine(model="small", faults=Chance(rng), answer=echoed, interval_s=0.001)
    direct = FakeEngine(model="big", faults=Chance(rng), answer=echoed, interval_s=0.001)
    provider = OpenAISimulator(faults=ProviderChance(rng), interval_s=0.001)
    on_site = await stack.enter_async_context(serving_engine(local))
    away = await stack.enter_async_context(serving_engine(direct))
    url = await stack.enter_async_context(serving_openai(provider))
    place = url.removeprefix("http://").removesuffix("/v1")
    recorders = [await stack.enter_async_context(recording(address)) for address in (away.address, place)]
    atlas = {
        "name": "atlas",
        "region": "us",
        "base_url": f"http://{recorders[1].address}/v1",
        "simulated": True,
        "models": [{"name": "m", "context_window": 128_000}],
        "limits": {"requests_per_minute": 1_000_000, "tokens_per_minute": 1_000_000_000},
    }
    store = StoreSettings(url=valkey, timeout_s=5.0)
    proxy = await stack.enter_async_context(
        build_proxy(
            CloudProxySettings.model_validate({"server": LOOPBACK, "store": store, "providers": [atlas]}), environ={}
        )
    )
    judge = await stack.enter_async_context(serving_validator(FakeValidator(json_only, finds)))
    shared = {"capabilities": sorted(CAPABILITIES), "region": "us", "kind": "cloud", "context_window": 128_000}
    targets = [
        {**shared, "name": "local", "kind": "local", "region": "site", "address": on_site.address},
        {**shared, "name": "direct", "address": recorders[0].address, "model": "big"},
        {**shared, "name": "atlas", "address": proxy.server.address, "model": "atlas/m"},
    ]
    targets[0]["context_window"] = 2048
    section = {
        "targets": targets,
        "include": ["decision_matrix"],
        "validator": {"address": judge},
        "store": {"url": valkey, "timeout_s": 5.0},
        "cache": {"enabled": True, "by_default": True},
        "ledger": {
            "url": f"sqlite:///{folder}/ledger.sqlite",
            "flush_s": 0.1,
            "intent_wait_s": 60,  # the promise itself, on a machine however slow
            "heartbeat_s": 0.5,
            "dead_s": 4,
        },
    }
    return Site(folder, section, local, direct, provider, (recorders[0], recorders[1]), rng, stack)


def leaving(number: int, rng: random.Random) -> Asked:
    """A request that is sure to leave the site."""
    policy = v1.RoutingPolicy(allowed_targets=[("direct", "atlas")[number % 2]])
    return replace(ask(number, rng), policy=policy, private=False, sensitive=False)


async def kill_at_random(site: Site) -> None:
    """Kill one router after the other while requests come, and start another in its place."""
    moments = sorted(site.rng.sample(range(REQUESTS // 10, REQUESTS - AT_ONCE), KILLS))
    for moment in moments:
        await site.reached(moment)
        await site.kill(site.rng.choice(list(site.running)))
        await site.start()


async def test_accounting_is_whole_however_routers_are_killed(tmp_path: Path, valkey: str) -> None:
    rng = random.Random(20261121)
    async with AsyncExitStack() as stack:
        site = await opened(stack, tmp_path, valkey, rng)
        await asyncio.gather(*(site.start() for _ in range(ROUTERS_AT_ONCE)))
        requests = [ask(number, rng) for number in range(REQUESTS)]
        seats = asyncio.Semaphore(AT_ONCE)

        async def one(asked: Asked) -> None:
            async with seats:
                site.ends[await site.ask(asked)] += 1

        killing = asyncio.create_task(kill_at_random(site))
        await asyncio.gather(*map(one, requests))
        await killing
        # All at once, in the middle of their work, and nobody follows.
        last = [leaving(REQUESTS + number, rng) for number in range(AT_ONCE)]
        site.direct.interval_s = site.provider.interval_s = 1.0
        under_way = [
            asyncio.create_task(site._once(rng.choice(list(site.running.values()))[0], asked)) for asked in last
        ]
        await eventually(lambda: bool(site.direct.running and site.provider.running), 60)
        for name in list(site.running):
            await site.kill(name)
        for ended in await asyncio.gather(*under_way, return_exceptions=True):
            assert not isinstance(ended, BaseException) or isinstance(ended, SpillwayError)
        await eventually(lambda: not site.local.running and not site.direct.running and not site.provider.running)
        before = Counter(row["outcome"] for row in site.rows())
        assert before[PENDING] > 0, before
        fresh = await site.start()
        await eventually(lambda: not any(row["outcome"] == PENDING for row in site.rows()), 60)
        _, process = site.running.pop(fresh)
        process.terminate()
        await process.wait()
        check_ledger(site, [*requests, *last], fresh)
        await check_store(valkey)
    private = [asked.canary.encode() for asked in (*requests, *last) if asked.private]
    for recorder in site.recorders:
        assert [canary for canary in private if canary in recorder.left] == []
    assert site.ends["answered"] > REQUESTS / 2, site.ends
    assert site.ends["INTERNAL"] == site.ends["gave up"] == 0, site.ends


def check_ledger(site: Site, requests: list[Asked], last_run: str) -> None:
    rows = site.rows()
    outcomes = Counter(row["outcome"] for row in rows)
    assert PENDING not in outcomes
    assert outcomes[LOST] > 0, outcomes
    ended = site.runs_ended()
    assert ended.pop(last_run) == "closed"
    assert set(ended.values()) == {"lost"}
    attempts = Counter((row["name"], row["request_id"], row["number"]) for row in rows)
    assert attempts.most_common(1)[0][1] == 1, "every attempt is accounted once"
    unknown = [(row["cost_nano_usd"], row["completion_tokens"], row["duration_ms"]) for row in rows if is_lost(row)]
    assert set(unknown) == {(None, None, None)}
    assert {row["region"] for row in rows if is_lost(row) and row["left_site"]} == {"us"}
    assert all(row["left_site"] == (row["target"] != "local") for row in rows)

    # What arrived, told apart by its stamp, has its one row, which says that it left.
    arrived = [(stamp(seen).router, seen.call.request_id, stamp(seen).attempt) for seen in site.direct.seen]
    assert len(arrived) == len(set(arrived))
    left = {(row["name"], row["request_id"], row["number"]): row for row in rows if row["left_site"]}
    assert [key for key in arrived if key not in left or left[key]["target"] != "direct"] == []

    # What arrived at a provider, told apart by its prompt: as many rows, besides those that never got so far.
    sent = [json.dumps(recorded.body) for recorded in site.provider.seen]
    assert len(sent) > REQUESTS / 40
    for asked in requests:
        calls = sum(asked.canary in body for body in sent)
        mine = [row for row in rows if row["request_id"] == asked.spec.request_id and row["target"] == "atlas"]
        answered = sum(row["outcome"] in ("answered", "not_confident", "refused_by_validator") for row in mine)
        assert answered <= calls <= len(mine), asked

    # What callers were told of what left is in the ledger.
    for request_id, usage in site.told.items():
        for attempt in usage.attempts:
            if attempt.left_site:
                found = [row for row in rows if row["request_id"] == request_id and row["target"] == attempt.target]
                assert found, attempt


def is_lost(row: dict[str, Any]) -> bool:
    return bool(row["outcome"] == LOST)


def stamp(seen: Any) -> v1.PolicyStamp:
    found: v1.PolicyStamp = seen.request.stamp
    return found


async def check_store(url: str) -> None:
    """Whatever a dead router held ends by itself; the audit trail stays, and is bounded by its length."""
    client = Redis.from_url(url, driver_info=DRIVER)
    keys = [key async for key in client.scan_iter() if key != audit.STREAM.encode()]
    endless = [key for key in keys if await client.pttl(key) == -1]
    await client.aclose()
    assert endless == []
