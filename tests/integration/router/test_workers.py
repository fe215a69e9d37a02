"""A router of two workers, as its image runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.session.client import Session
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.waiting import eventually
from spillway.v1 import inference_pb2_grpc, router_admin_pb2_grpc
from tests.integration.processes import free_port, started
from tests.integration.router.mesh import CAPABILITIES, text
from tests.integration.workers import children, reach, reaching


@dataclass
class Site:
    """The router, what is behind it and its policy."""

    engine: FakeEngine
    remote: Remote
    process: asyncio.subprocess.Process
    policy: Path
    document: dict[str, Any]
    metrics: str
    http: str

    def __post_init__(self) -> None:
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        self.admin = router_admin_pb2_grpc.RouterAdminServiceStub(self.remote.channel)

    async def ask(self, words: int) -> str:
        """Ask for a stream; the answer is as long as asked for."""
        request, answer = v1.StreamGenerateRequest(spec=text("x " * words)), ""
        async with self.remote.stream(self.stub.StreamGenerate, request, call(), span_name="test") as events:
            async for told in events:
                answer += told.event.delta.text
        return answer

    async def rpc(self, method: Any, request: Any) -> Any:
        return await self.remote.unary(method, request, call(), span_name="test")

    async def counted(self, name: str) -> float:
        """Sum of all samples called `name`, as Prometheus reads them."""

        def page() -> str:
            with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        families = text_string_to_metric_families(await asyncio.to_thread(page))
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def call() -> Call:
    return Call("test", Deadline.after(60))


def as_long(spec: v1.GenerationSpec) -> str:
    return "word " * (len(spec.text.text) // 2)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        engine = FakeEngine(model="small", answer=as_long)
        address = (await stack.enter_async_context(serving_engine(engine))).address
        target = {"name": "local", "kind": "local", "address": address, "context_window": 2048}
        document = {"targets": [{**target, "capabilities": CAPABILITIES}]}
        policy = tmp_path / "policy.yaml"
        policy.write_text(yaml.safe_dump(document))
        ports = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        section = {
            "workers": 2,
            "policy_file": str(policy),
            "policy_reload_s": 3600,
            "http": {"listen": ports[0]},
            "telemetry": {"metrics_listen": ports[1]},
            "ledger": {"url": f"sqlite:///{tmp_path}/ledger.sqlite"},
        }
        router, process = await stack.enter_async_context(started("router", section, tmp_path / "mesh.yaml"))
        remote = await stack.enter_async_context(reaching(router, 2))
        yield Site(engine, remote, process, policy, document, ports[1], ports[0])


async def test_workers_share_ports_metrics_sessions_and_what_operators_say(site: Site) -> None:
    assert await asyncio.gather(*(site.ask(3) for _ in range(10))) == ["word word word "] * 10
    assert await site.counted("local_dispatch_count_total") == 10
    assert await site.counted("spillway_router_request_duration_seconds_count") == 10

    def edge() -> int:
        with urllib.request.urlopen(f"http://{site.http}/v1/models", timeout=10) as answer:
            return int(answer.status)

    assert [await asyncio.to_thread(edge) for _ in range(4)] == [200] * 4

    site.policy.write_text(
        yaml.safe_dump({**site.document, "revision": "next", "aliases": {"quick": {"model": "local"}}})
    )
    reloaded = await site.rpc(site.admin.ReloadPolicy, v1.ReloadPolicyRequest())
    assert (reloaded.policy_revision, len(reloaded.findings)) == ("next", 0)
    listed = [await site.rpc(site.stub.ListModels, v1.ListModelsRequest()) for _ in range(4)]
    assert all("quick" in {model.name for model in each.models} for each in listed)

    told = [await site.rpc(site.admin.GetStatus, v1.GetStatusRequest()) for _ in range(2)]
    assert [(each.routers, each.policy_revision) for each in told] == [(2, "next")] * 2

    site.engine.interval_s = 0.005
    session = Session(site.remote)
    try:
        streams = [asyncio.create_task(in_session(session, 40)) for _ in range(8)]
        await eventually(lambda: site.engine.running == 8, 30)
        assert sorted(link.running for link in session._links) == [4, 4]
        assert await asyncio.gather(*streams) == ["word " * 40] * 8
        counts = [part.rpartition(":")[2].rstrip(">") for part in repr(site.remote.channel).split()[1:]]
        assert counts == ["1", "1"]
    finally:
        await session.close()


async def test_a_worker_that_is_killed_takes_no_stream_of_the_other_along_and_comes_back_and_a_signal_lets_all_end(
    site: Site,
) -> None:
    site.engine.interval_s = 0.01
    streams = [asyncio.create_task(site.ask(200)) for _ in range(4)]
    await eventually(lambda: site.engine.running == 4, 30)
    first, second = children(site.process.pid)
    os.kill(second, signal.SIGKILL)
    ends = await asyncio.gather(*streams, return_exceptions=True)
    assert [end for end in ends if isinstance(end, str)] == ["word " * 200] * 2
    before = await site.counted("local_dispatch_count_total")
    assert await site.ask(2) == "word word "
    await reach(site.remote, 2)
    assert len(children(site.process.pid)) == 2
    assert first in children(site.process.pid)
    assert await asyncio.gather(*(site.ask(2) for _ in range(6))) == ["word word "] * 6
    assert await site.counted("local_dispatch_count_total") == before + 7

    streams = [asyncio.create_task(site.ask(60)) for _ in range(6)]
    await eventually(lambda: site.engine.running == 6, 30)
    site.process.send_signal(signal.SIGTERM)
    assert await asyncio.gather(*streams) == ["word " * 60] * 6
    assert await site.process.wait() == 0


async def in_session(session: Session, words: int) -> str:
    request, answer = v1.StreamGenerateRequest(spec=text("x " * words)), ""
    async with session.stream(request, call(), span_name="test") as events:
        async for told in events:
            answer += told.event.delta.text
    return answer
