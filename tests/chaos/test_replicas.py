"""Two replicas of one model on the real vLLM, and one of them is killed."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.router.app import build
from services.router.policy_settings import TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.generation import Folder
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.session.client import Session
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK
from spillway.v1 import inference_pb2_grpc
from tests.integration.processes import started

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.engine,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm"),
]

STREAMS, TOKENS, BEFORE_THE_KILL = 32, 150, 20
UNDER_WAY = 8
ENGINE = {"vllm": {"max_model_len": 512, "cpu": {"kv_cache_gib": 0.25}}}
CAPABILITIES: Any = ["text_input"]


def spec(number: int) -> v1.GenerationSpec:
    text = f"Order {number} has not come and it is the {number}th of the month. What shall I do?"
    message = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=text)])
    return v1.GenerationSpec(
        chat=v1.Chat(messages=[message]),
        sampling=v1.Sampling(temperature=0, max_tokens=TOKENS),
        stop=v1.Stop(ignore_eos=True),
    )


def call() -> Call:
    return Call("test", Deadline.after(120))


async def test_live_streams_survive_the_death_of_their_engine_byte_for_byte(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(started("local_engine", ENGINE, tmp_path / f"{number}.yaml"))
            for number in range(2)
        ]
        (_, doomed), (other, _) = engines
        targets = tuple(
            TargetSettings(name=f"t{number}", kind="local", address=address, weights="w", capabilities=CAPABILITIES)
            for number, (address, _) in enumerate(engines)
        )
        app = await stack.enter_async_context(build(RouterSettings(server=LOOPBACK, targets=targets)))
        tracing = Tracing("test")
        routed, alone = (Remote(address, tracing=tracing) for address in (app.server.address, other))
        for remote in (routed, alone):
            stack.push_async_callback(remote.close)
        session = Session(routed)
        stack.push_async_callback(session.close)
        stubs: list[Any] = [inference_pb2_grpc.InferenceServiceStub(remote.channel) for remote in (routed, alone)]

        async def uninterrupted(number: int) -> str:
            request = v1.GenerateRequest(spec=spec(number))
            answer = await alone.unary(stubs[1].Generate, request, call(), span_name="t")
            return str(answer.choices[0].content.text)

        wanted = await asyncio.gather(*map(uninterrupted, range(STREAMS)))
        under_way: list[int] = []

        async def streamed(number: int) -> tuple[str, list[v1.RouteChanged]]:
            folder, changes, tokens, target = Folder(), [], 0, ""
            request = v1.StreamGenerateRequest(spec=spec(number))
            ways: Any = (session.stream, partial(routed.stream, stubs[0].StreamGenerate))
            async with ways[number % 2](request, call(), span_name="t") as answers:
                async for answer in answers:
                    event = answer.event
                    folder.add(event)
                    target = event.started.target or target
                    if event.HasField("route_changed"):
                        changes.append(event.route_changed)
                    before, tokens = tokens, tokens + event.delta.tokens
                    if target == "t0" and before < BEFORE_THE_KILL <= tokens:
                        under_way.append(number)
                        if len(under_way) == UNDER_WAY:
                            doomed.send_signal(signal.SIGKILL)
            whole = folder.whole()
            assert whole.usage.completion_tokens == TOKENS
            return whole.choices[0].content.text, changes

        found = await asyncio.gather(*map(streamed, range(STREAMS)))
    assert [text for text, _ in found] == wanted
    changes = [change for _, changed in found for change in changed]
    assert len(changes) >= UNDER_WAY // 2  # a slow reader's may have all of their tokens on the way already
    assert {(change.from_target, change.to_target) for change in changes} == {("t0", "t1")}
    assert any(change.resumed_after_tokens >= BEFORE_THE_KILL for change in changes)
