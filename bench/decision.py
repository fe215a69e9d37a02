"""What a decision costs: policy over many targets, against an empty gRPC call.

The call is a health check on a bare grpc.aio server in this process, so its cost is that of both sides.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bench.row import Row
from services.router.facts import Facts
from services.router.policy_document import opened
from services.router.policy_settings import PolicyDocument, PriceSettings, TargetSettings
from services.router.rulebook import Rulebook
from spillway.egress import DataPolicy, Residency, Sensitivity

CALLS, ROUNDS = 500, 5
FACTS = Facts(
    data_policy=DataPolicy(Residency.REGIONS, frozenset({"eu", "us"}), Sensitivity.INTERNAL),
    needs=frozenset({"json_schema"}),
    json=True,
    prompt_bytes=3000,
    task="extract",
)


def targets(count: int) -> tuple[TargetSettings, ...]:
    """As a large fleet is: replicas of a few models, and some providers in several regions."""
    return tuple(
        TargetSettings(
            name=f"t{number}",
            kind="cloud" if number % 5 == 0 else "local",
            address=f"node-{number}:7071",
            model=f"model-{number % 7}",
            region=("eu", "us", "asia")[number % 3],
            context_window=(4096, 8192, 131_072)[number % 3],
            capabilities=frozenset({"json_schema", "tools"} if number % 4 else {"tools"}),
            quantization_bits=(4, 8, 16)[number % 3],
            price=PriceSettings(input_usd_per_mtok=number % 10, output_usd_per_mtok=number % 10),
        )
        for number in range(count)
    )


def cpu_us(act: Callable[[], object], times: int) -> float:
    """CPU of this process per `act`, in microseconds, the median of rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            act()
        found.append((time.process_time() - began) / times * 1e6)
    return statistics.median(found)


async def empty_calls() -> float:
    """CPU of an empty call, both sides, in microseconds."""
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    found = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(ROUNDS):
            began = time.process_time()
            for _ in range(CALLS):
                await stub.Check(health_pb2.HealthCheckRequest())
            found.append((time.process_time() - began) / CALLS * 1e6)
    await server.stop(0)
    return statistics.median(found)


def run() -> Iterator[Row]:
    """The call first, then decisions."""
    call_us = asyncio.run(empty_calls())
    yield Row("an empty call, both sides", "grpc.aio", call_us, "call", "")
    for count, times in ((100, 200), (10_000, 5)):
        book = opened(PolicyDocument(targets=targets(count))).in_force("")

        def decide(book: Rulebook = book) -> None:
            facts, policy = book.read(FACTS)
            policy.decide(facts, book.cohorts.shortlist(policy.names(facts), (), 0.5))

        cost_us = cpu_us(decide, times)
        yield Row(f"decision over {count} targets", "policy", cost_us, "plan", f"{cost_us / call_us:.2f} empty calls")
