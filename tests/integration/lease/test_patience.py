"""A router before an engine whose runtime another has: the engine is busy, and nobody finds it silent."""

from __future__ import annotations

from typing import Any

import pytest

from services.router.app import build
from services.router.journal import Attempt
from services.router.policy_settings import PolicySettings, TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.server import LOOPBACK
from spillway.v1 import inference_pb2_grpc
from tests.integration.lease.engines import engines, hanging
from tests.integration.lease.runtime import Runtime
from tests.integration.router.mesh import text

DEADLINE_S = 8.0


def target(name: str, address: str, **told: Any) -> TargetSettings:
    return TargetSettings(name=name, kind="local", address=address, capabilities=["text_input"], **told)


@pytest.mark.parametrize("streamed", [False, True])
async def test_who_waits_in_line_is_busy_before_the_router_finds_it_silent(
    runtime: Runtime, valkey: str, streamed: bool
) -> None:
    kept: list[Attempt] = []
    async with (
        engines(runtime, valkey) as (engine,),
        serving_engine(FakeEngine()) as other,
        hanging(engine, runtime),
    ):
        settings = RouterSettings(
            server=LOOPBACK,
            targets=(target("leased", engine.app.server.address, tier="large"), target("other", other.address)),
            policy=PolicySettings(first_token_share=0.25),
        )
        async with build(settings, keep=lambda attempt, call: kept.append(attempt)) as app:
            remote = Remote(app.server.address, tracing=Tracing("test"))
            stub = inference_pb2_grpc.InferenceServiceStub(remote.channel)
            call = Call("test", Deadline.after(DEADLINE_S))
            policy = v1.RoutingPolicy(category=v1.CATEGORY_COMPLEX)
            if streamed:
                request = v1.StreamGenerateRequest(spec=text(), policy=policy)
                async with remote.stream(stub.StreamGenerate, request, call, span_name="t") as rpc:
                    async for _ in rpc:
                        pass
            else:
                await remote.unary(stub.Generate, v1.GenerateRequest(spec=text(), policy=policy), call, span_name="t")
            await remote.close()
    assert [(attempt.target.name, attempt.record.reason) for attempt in kept] == [
        ("leased", "TARGET_BUSY"),
        ("other", ""),
    ]
