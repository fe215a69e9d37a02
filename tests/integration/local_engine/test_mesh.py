"""The whole way: router, local engine on the real vLLM, cloud proxy and simulated provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from services.router.app import build
from services.router.policy_settings import TargetSettings
from services.router.settings import RouterSettings
from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import DeadlineExceeded
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry import names
from spillway.telemetry.tracing import trace_id
from spillway.testing.openai_faults import Faults, Silence
from spillway.testing.openai_simulator import OpenAISimulator
from spillway.testing.server import LOOPBACK
from tests.integration.cloud_proxy.rig import MODEL, NOWHERE, running
from tests.integration.local_engine.conftest import Client

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn their own developers while they load
]

LOCAL = "local"
CAPABILITIES: Any = ["text_input", "token_input", "json_schema"]


@asynccontextmanager
async def routed(engine: Client, simulator: OpenAISimulator) -> AsyncIterator[Client]:
    """A client of a router before `engine` and, by way of a cloud proxy, `simulator`."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(running(simulator, NOWHERE))
        places = (("local", LOCAL, "", engine.remote.address), ("cloud", MODEL, MODEL, proxy.app.server.address))
        targets = tuple(
            TargetSettings(kind=kind, name=name, model=model, address=address, capabilities=CAPABILITIES)
            for kind, name, model, address in places
        )
        router = await stack.enter_async_context(build(RouterSettings(server=LOOPBACK, targets=targets)))
        remote = Remote(router.server.address, tracing=engine.tracing)
        stack.push_async_callback(remote.close)
        yield Client(remote, engine.tracing, engine.collector)


def endless(model: str) -> v1.GenerationSpec:
    """A request that `model` would answer for longer than any of these tests last."""
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="Tell me everything.")])])
    stop = v1.Stop(ignore_eos=True) if model == LOCAL else None
    return v1.GenerationSpec(model=model, chat=chat, sampling=v1.Sampling(temperature=0), stop=stop)


async def test_a_deadline_of_300_ms_reaches_vllm_and_the_provider_as_what_is_left_of_it(client: Client) -> None:
    simulator = OpenAISimulator(faults=Faults(Silence()))
    async with routed(client, simulator) as mesh:
        root = client.tracing.start("root")
        for model in (LOCAL, MODEL):
            with pytest.raises(DeadlineExceeded):
                await mesh.events(endless(model), Call("hurried", Deadline.after(0.3), root))
        root.end()
        async with asyncio.timeout(5):
            await simulator.left.wait()
        await client.idle()
    assert 0 < int(simulator.seen[0].headers["x-spillway-deadline-ms"]) <= 300
    spans = await client.collector.trace(
        trace_id(root), until=lambda spans: {"root", "llm_request"} <= {span.name for span in spans}, timeout_s=15
    )
    [engine] = [span for span in spans if span.service == "local_engine" and names.DEADLINE_LEFT_MS in span.attributes]
    assert 0 < engine.attributes[names.DEADLINE_LEFT_MS] <= 300  # type: ignore[operator]


async def test_a_client_that_leaves_the_router_leaves_vllm_with_nothing_to_do(client: Client) -> None:
    async with routed(client, OpenAISimulator()) as mesh:
        async with mesh.stream(endless(LOCAL)) as responses:
            async for response in responses:
                if response.event.HasField("delta"):
                    assert (await client.load()).running == 1
                    break
        await client.idle()
