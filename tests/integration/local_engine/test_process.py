"""The local engine as a process, and what happens when parts of it are killed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import TargetDown, TargetDraining
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.v1 import engine_pb2_grpc, inference_pb2_grpc
from tests.integration.processes import END_S, START_S, started

pytestmark = [pytest.mark.engine, pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")]

EXIT_SETTINGS, EXIT_START, EXIT_DIED = 2, 3, 70


SMALL = {"vllm": {"max_model_len": 512, "cpu": {"kv_cache_gib": 0.25}}}


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def engine_core(pid: int) -> int:
    (core,) = [child for child in children(pid) if b"EngineCore" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return core


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(END_S):
        while runs(pid):  # noqa: ASYNC110 - the kernel tells no event loop
            await asyncio.sleep(0.02)


async def test_when_the_engine_core_is_killed_streams_end_with_target_down_and_the_process_says_so(
    tmp_path: Path,
) -> None:
    async with started("local_engine", SMALL, tmp_path / "spillway.yaml") as (address, process):
        core = engine_core(process.pid)
        assert os.getsid(core) == core, "a terminal's Ctrl-C would reach the engine before the drain"
        remote = Remote(address, tracing=Tracing("test"))
        stub = inference_pb2_grpc.InferenceServiceStub(remote.channel)
        spec = v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[5, 6, 7]), stop=v1.Stop(ignore_eos=True))
        request = v1.StreamGenerateRequest(spec=spec)
        with pytest.raises(TargetDown):
            async with remote.stream(
                stub.StreamGenerate, request, Call("r", Deadline.after(60)), span_name="t"
            ) as answers:
                async for answer in answers:
                    if answer.event.HasField("started"):
                        os.kill(core, signal.SIGKILL)
        assert await asyncio.wait_for(process.wait(), END_S) == EXIT_DIED
        await remote.close()


async def test_a_notice_to_stop_lets_streams_end_whole_and_ends_the_process_well(tmp_path: Path) -> None:
    async with started("local_engine", SMALL, tmp_path / "spillway.yaml") as (address, process):
        remote = Remote(address, tracing=Tracing("test"))
        inference = inference_pb2_grpc.InferenceServiceStub(remote.channel)
        telemetry = engine_pb2_grpc.EngineTelemetryServiceStub(remote.channel)
        call = Call("r", Deadline.after(60))
        sampling = v1.Sampling(temperature=0, max_tokens=400)
        spec = v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[5, 6, 7]), stop=v1.Stop(ignore_eos=True), sampling=sampling)
        events, states = [], []
        async with (
            remote.stream(
                inference.StreamGenerate, v1.StreamGenerateRequest(spec=spec), call, span_name="t"
            ) as answers,
            remote.stream(telemetry.WatchLoad, v1.WatchLoadRequest(interval_ms=20), call, span_name="t") as loads,
        ):
            async for answer in answers:
                events.append(answer.event)
                if answer.event.HasField("started"):
                    process.send_signal(signal.SIGTERM)  # all the notice that a machine which is taken away gives
                    states = [told.load.state async for told in loads]
                    with pytest.raises(TargetDraining):
                        request = v1.GenerateRequest(spec=spec)
                        await remote.unary(inference.Generate, request, call, span_name="t")
        assert states[-1] == v1.ENGINE_STATE_DRAINING
        assert sum(event.delta.tokens for event in events) == 400 == events[-1].usage.completion_tokens
        assert await asyncio.wait_for(process.wait(), END_S) == 0
        await remote.close()


async def test_it_says_how_far_its_start_has_come_and_once_killed_leaves_nothing_of_the_engine(tmp_path: Path) -> None:
    """Two rules, for one start of a real engine."""
    states: list[v1.EngineState.ValueType] = []
    async with (
        started("local_engine", SMALL, tmp_path / "spillway.yaml", ready=False) as (address, process),
        grpc.aio.insecure_channel(address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        telemetry = engine_pb2_grpc.EngineTelemetryServiceStub(channel)
        watch = telemetry.WatchLoad(v1.WatchLoadRequest(interval_ms=20), timeout=START_S, wait_for_ready=True)
        async for told in watch:
            states += [told.load.state] if told.load.state not in states else []
            if told.load.state == v1.ENGINE_STATE_STARTING:  # for seconds
                answer = await health.Check(health_pb2.HealthCheckRequest())
                assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            if told.load.state == v1.ENGINE_STATE_SERVING:
                break
            assert process.returncode is None
        assert states == [v1.ENGINE_STATE_STARTING, v1.ENGINE_STATE_WARMING, v1.ENGINE_STATE_SERVING]
        core = engine_core(process.pid)
        workers = children(core)
        process.kill()
        await process.wait()
        for pid in (core, *workers):
            await gone(pid)


async def test_a_folder_that_is_no_model_ends_the_process_with_its_own_code(tmp_path: Path) -> None:
    async with started("local_engine", {"model": str(tmp_path)}, tmp_path / "spillway.yaml", ready=False) as (
        _,
        process,
    ):
        assert await asyncio.wait_for(process.wait(), END_S) == EXIT_START


async def test_a_process_told_to_stop_while_it_starts_stops(tmp_path: Path) -> None:
    async with started("local_engine", {}, tmp_path / "spillway.yaml", ready=False) as (address, process):
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="liveness")
            assert (await health.Check(request, wait_for_ready=True)).status == health_pb2.HealthCheckResponse.SERVING
        process.terminate()
        assert await asyncio.wait_for(process.wait(), END_S) == 0


async def test_a_model_that_can_never_fit_ends_the_process_as_a_wrong_setting(tmp_path: Path) -> None:
    wide = {"vllm": {"max_model_len": 10**10, "cpu": {"kv_cache_gib": 0.25}}}
    async with started("local_engine", wide, tmp_path / "spillway.yaml", ready=False) as (_, process):
        assert await asyncio.wait_for(process.wait(), END_S) == EXIT_SETTINGS
