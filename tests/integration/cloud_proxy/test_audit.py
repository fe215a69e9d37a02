"""The audit trail: what left is on record, whatever happens to the proxy and the store."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.cloud_proxy.audit import Audit
from services.cloud_proxy.audit_settings import AuditSettings
from services.cloud_proxy.spool import Spool
from spillway import v1
from spillway.audit import FIELD, INTENT, OUTCOME, REFUSED, STREAM, UNKNOWN, Record, folded, read
from spillway.errors import PolicyBlocked, ProviderRateLimited, SpillwayError, TargetDown
from spillway.rpc.remote import Remote
from spillway.settings import SettingsError, StoreSettings
from spillway.store.redis import Store
from spillway.telemetry.tracing import Tracing
from spillway.testing.openai_faults import Cut, Faults, Stall
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.waiting import eventually
from tests.integration.cloud_proxy.relay import relayed
from tests.integration.cloud_proxy.rig import MODEL, NOWHERE, Caller, declared, running, spec
from tests.integration.processes import started

STAMP = v1.PolicyStamp(
    router="router-1",
    policy_revision="r7",
    tenant="acme",
    data_policy=v1.DataPolicy(
        residency=v1.RESIDENCY_REGIONS, regions=["us"], sensitivity=v1.SENSITIVITY_INTERNAL, max_retention_days=30
    ),
    target=MODEL,
    attempt=2,
    redacted=["email", "card"],
)
SECRET = "my diagnosis is nobody's business"


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Redis]:
    found = Redis.from_url(url)
    try:
        yield found
    finally:
        await found.aclose()


async def records(url: str, count: int) -> list[Record]:
    """The first `count` records of the trail, once they are there; no more must be."""
    found: list[Record] = []
    async with asyncio.timeout(30), client(url) as redis:
        last: bytes = b"0"
        while len(found) < count:
            told: Any = await redis.xread({STREAM: last}, block=0)
            for _, entries in told:
                found += read(entries)
                last = entries[-1][0]
    assert len(found) == count
    return found


@asynccontextmanager
async def auditing(url: str, folder: Path | None = None, **settings: Any) -> AsyncIterator[Audit]:
    store = Store(StoreSettings(url=url, timeout_s=5.0))
    audit = Audit(AuditSettings(folder=folder, **settings), store, Spool(folder), away_s=0.01)
    await audit.open()
    work = asyncio.create_task(audit.run())
    try:
        yield audit
    finally:
        work.cancel()
        await asyncio.wait({work})
        await audit.close()
        await store.close()


def one(id: object) -> Record:
    return {"id": str(id), "left": True, "phase": OUTCOME}


async def test_a_call_is_on_record_before_its_content_leaves_and_after_it_has_ended(valkey: str) -> None:
    simulator = OpenAISimulator()
    async with running(simulator, valkey, retention_days=30) as rig:
        answer = await rig.stream(spec(SECRET), stamp=STAMP)
        before, after = await records(valkey, 2)
    told = {
        "tenant": "acme",
        "router": "router-1",
        "request_id": "test-request",
        "attempt": 2,
        "policy_revision": "r7",
        "residency": "regions",
        "regions": ["us"],
        "sensitivity": "internal",
        "max_retention_days": 30,
        "redacted": ["card", "email"],
        "target": MODEL,
        "provider": "openai",
        "model": "gpt-4o-mini",
        "region": "us",
        "retention_days": 30,
        "simulated": True,
        "bytes": int(simulator.seen[0].headers["content-length"]),
    }
    assert {name: before[name] for name in told} == told
    assert {name: after[name] for name in told} == told
    assert (before["phase"], after["phase"]) == (INTENT, OUTCOME)
    assert before["id"] == after["id"]
    assert (after["outcome"], after["left"], after["status"]) == ("ANSWERED", True, 200)
    assert after["prompt_tokens"] == answer.usage.prompt_tokens
    assert after["completion_tokens"] == answer.usage.completion_tokens
    assert after["cost_nano_usd"] == answer.usage.cost_nano_usd > 0
    assert after["provider_request_id"] == "req_simulated_1"
    assert after["answered_by"] == "gpt-4o-mini-simulated"


async def test_no_record_holds_content(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey) as rig:
        answer = await rig.stream(spec(SECRET))
        with pytest.raises(PolicyBlocked):
            await rig.stream(spec(SECRET), stamp=None)
        found = json.dumps(await records(valkey, 3))
    assert SECRET not in found
    assert answer.choices[0].content.text not in found


async def test_what_the_gate_refuses_and_what_a_limit_holds_is_on_record_and_left_nothing(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, limits={"requests_per_minute": 1}) as rig:
        stay = v1.PolicyStamp(tenant="acme", data_policy=v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY))
        with pytest.raises(PolicyBlocked):
            await rig.stream(spec(), stamp=stay)
        await rig.stream(spec())
        with pytest.raises(ProviderRateLimited):
            await rig.stream(spec())
        told = folded(await records(valkey, 4))
    assert [(each["phase"], each["outcome"], each["left"], each["bytes"] > 0) for each in told] == [
        (REFUSED, "POLICY_BLOCKED", False, False),
        (OUTCOME, "ANSWERED", True, True),
        (OUTCOME, "PROVIDER_RATE_LIMITED", False, False),
    ]
    assert told[0]["tenant"] == "acme"


@pytest.mark.parametrize(("does", "most"), [("generated", None), ("whole", 40 * 600), ("unknown", 40 * 600)])
async def test_of_a_cancelled_answer_what_we_counted_and_the_most_that_is_billed_is_on_record(
    valkey: str, does: str, most: int | None
) -> None:
    simulator = OpenAISimulator(faults=Faults(Stall(after=3)))
    async with running(simulator, valkey, billing_on_cancel=does) as rig:
        events = rig.events(spec(sampling=v1.Sampling(max_tokens=40)))
        async for event in events:
            if event.HasField("delta"):
                break
        await events.aclose()
        _, told = await records(valkey, 2)
        [span] = rig.spans("provider.request")
    assert (told["outcome"], told["left"], told["billing_on_cancel"]) == ("CANCELLED", True, does)
    prompt = told["counted_prompt_tokens"] * 150
    counted = prompt + told["counted_completion_tokens"] * 600
    assert 0 < told["counted_completion_tokens"] <= 40
    assert told["completion_tokens"] is None  # the provider has not told
    assert told["counted_nano_usd"] == counted
    assert told["billed_at_most_nano_usd"] == (counted if most is None else prompt + most)
    assert "cost_nano_usd" not in told
    assert span.attributes is not None
    assert span.attributes["spillway.billed_at_most_nano_usd"] == told["billed_at_most_nano_usd"]


async def test_nothing_bounds_the_bill_of_a_cut_answer_that_might_have_gone_on_for_ever(valkey: str) -> None:
    async with running(OpenAISimulator(faults=Faults(Cut(after=1))), valkey, billing_on_cancel="whole") as rig:
        with pytest.raises(SpillwayError):
            await rig.stream(spec())
        _, told = await records(valkey, 2)
    assert told["counted_nano_usd"] > 0
    assert told["billed_at_most_nano_usd"] is None


async def test_a_proxy_killed_in_the_middle_of_an_answer_leaves_a_trace_of_what_left(
    valkey: str, tmp_path: Path
) -> None:
    async with serving_openai(OpenAISimulator(faults=Faults(Stall(after=1)))) as url:
        section = {"store": {"url": valkey, "timeout_s": 5.0}, "providers": [declared(url)]}
        async with started("cloud_proxy", section, tmp_path / "proxy.yaml") as (address, process):
            remote = Remote(address, tracing=Tracing("test"), name="doomed")
            with pytest.raises(SpillwayError):
                async for event in Caller(remote).events(spec()):
                    if event.HasField("delta"):
                        process.kill()
            await process.wait()
            await remote.close()
        [told] = folded(await records(valkey, 1))
    assert (told["outcome"], told["left"], told["region"]) == (UNKNOWN, True, "us")
    assert told["bytes"] > 0


async def test_records_outlive_proxy_and_store_and_come_back_in_order_each_once(valkey: str, tmp_path: Path) -> None:
    audit = {"folder": str(tmp_path / "spool")}
    async with serving_openai(OpenAISimulator(faults=Faults(None, None, Stall(after=1)))) as url:
        section = {"store": {"url": NOWHERE}, "providers": [declared(url)], "audit": audit}
        async with started("cloud_proxy", section, tmp_path / "away.yaml") as (address, process):
            remote = Remote(address, tracing=Tracing("test"), name="away")
            caller = Caller(remote)
            for _ in range(2):
                await caller.generate(spec())
            with pytest.raises(SpillwayError):
                async for event in caller.events(spec()):
                    if event.HasField("delta"):
                        process.kill()
            await process.wait()
            await remote.close()
        section["store"] = {"url": valkey}
        async with started("cloud_proxy", section, tmp_path / "back.yaml") as (address, _):
            remote = Remote(address, tracing=Tracing("test"), name="back")
            await Caller(remote).generate(spec())
            told = await records(valkey, 7)
            await remote.close()
    assert [each["phase"] for each in told] == [INTENT, OUTCOME, INTENT, OUTCOME, INTENT, INTENT, OUTCOME]
    assert [each["outcome"] for each in folded(told)] == ["ANSWERED", "ANSWERED", UNKNOWN, "ANSWERED"]
    assert len({each["proxy"] for each in told}) == 2


async def test_while_the_store_comes_and_goes_and_loses_its_replies_every_record_is_kept_once_and_in_order(
    valkey: str, tmp_path: Path
) -> None:
    async with relayed(valkey, tmp_path) as relay, auditing(relay.url, store_wait_s=0.02) as audit:
        numbers = itertools.count()

        async def keep(count: int) -> None:
            for _ in range(count):
                await audit.opened(one(next(numbers)))

        await keep(20)
        for _ in range(5):
            relay.mute()  # what is sent now arrives, and nobody hears that it did
            await keep(10)
            await relay.down()
            await keep(10)
            await relay.up()
            await keep(10)
        told = await records(valkey, 20 + 5 * 30)
        await eventually(lambda: not audit.waiting)  # the store has them a little before it has said so
    assert [each["id"] for each in told] == [str(number) for number in range(20 + 5 * 30)]
    assert audit.lost == 0


async def test_a_store_that_does_not_answer_holds_up_one_call_and_no_more(valkey: str, tmp_path: Path) -> None:
    async with relayed(valkey, tmp_path) as relay, auditing(relay.url, store_wait_s=0.2) as audit:
        relay.mute()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for at in range(50):
            await audit.opened(one(at))
        waited = loop.time() - began
        assert audit.waiting == 50
        relay.speak()
        assert len(await records(valkey, 50)) == 50
    assert waited < 50 * 0.2 / 2


async def test_what_cannot_be_put_on_record_does_not_leave(valkey: str) -> None:
    async with auditing(NOWHERE, max_waiting=3) as audit:
        for at in range(3):
            await audit.opened(one(at))
        with pytest.raises(TargetDown, match="no audit record"):
            await audit.opened(one(3))
        for at in range(3):
            audit.told(one(at))  # what has left may always say how it ended
        assert audit.lost == 0


async def test_what_cannot_be_put_on_record_leaves_where_the_owner_says_so_and_is_counted() -> None:
    async with auditing(NOWHERE, max_waiting=3, when_full="drop") as audit:
        for at in range(5):
            await audit.opened(one(at))
            audit.told(one(at))
        assert audit.lost == 3


async def test_a_refused_call_without_a_place_in_the_trail_never_reaches_the_provider(valkey: str) -> None:
    simulator = OpenAISimulator()
    async with running(simulator, NOWHERE, audit={"max_waiting": 2}) as rig:
        await rig.generate(spec())
        with pytest.raises(TargetDown, match="no audit record"):
            for _ in range(2):
                await rig.generate(spec())
    assert len(simulator.seen) == 1


async def test_a_spool_is_one_proxys_alone(tmp_path: Path) -> None:
    async with auditing(NOWHERE, tmp_path):
        second = Spool(tmp_path)
        with pytest.raises(SettingsError, match=r"audit\.folder"):
            await second.open()
        await second.close()


async def test_the_trail_keeps_about_as_many_records_as_it_is_told_to(valkey: str) -> None:
    async with auditing(valkey, keep_records=100) as audit:
        for start in range(0, 1000, 100):
            await asyncio.gather(*(audit.opened(one(start + at)) for at in range(100)))
        async with client(valkey) as redis:
            kept = await redis.xlen(STREAM)
            newest: Any = await redis.xrevrange(STREAM, count=1)
    assert 100 <= kept < 400  # Redis drops whole nodes of its stream
    assert json.loads(newest[0][1][FIELD])["phase"] == INTENT
