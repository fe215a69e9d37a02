"""The chain ollama, openai, claude, mistral, gemini: each fails in its own way, the next answers and says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from services.cloud_proxy.app import build as build_proxy
from services.cloud_proxy.settings import CloudProxySettings, ProviderSettings
from services.local_engine.app import build as build_engine
from services.local_engine.settings import LocalEngineSettings, RuntimeSettings
from services.router.app import build as build_router
from services.router.policy_settings import PolicySettings, TargetSettings
from services.router.settings import RouterSettings
from spillway import audit, v1
from spillway.deadline import Deadline
from spillway.errors import AllTargetsFailed
from spillway.generation import Folder
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.settings import StoreSettings
from spillway.telemetry.tracing import Tracing
from spillway.testing.anthropic_simulator import AnthropicSimulator
from spillway.testing.gemini_simulator import GeminiSimulator
from spillway.testing.http_simulator import HttpSimulator, serving
from spillway.testing.mistral_simulator import MistralSimulator
from spillway.testing.openai_faults import Cut, Faults, HttpFault, Status, out_of_credit, rate_limited
from spillway.testing.openai_simulator import OpenAISimulator
from spillway.testing.runtime_simulator import RuntimeSimulator, serving_runtime
from spillway.testing.server import LOOPBACK
from spillway.v1 import inference_pb2_grpc

pytestmark = pytest.mark.chaos


@dataclass(frozen=True, slots=True)
class Link:
    """One of the chain: who it is, where content goes with it, and its own way to fail."""

    name: str
    kind: str
    region: str
    make: Callable[..., HttpSimulator]
    base: str
    fault: HttpFault
    reason: str
    """What the attempt is said to have failed of."""

    @property
    def target(self) -> str:
        return self.name if self.kind == "ollama" else f"{self.name}/m"


CHAIN = (
    Link(
        "ollama", "ollama", "site", lambda **how: RuntimeSimulator(kind="ollama", models=("m",), **how), "",
        Status(404, "model_not_found", message="model 'm' not found"), "TARGET_MODEL_MISSING",
    ),
    Link("openai", "openai", "us", OpenAISimulator, "/v1", out_of_credit(), "PROVIDER_OUT_OF_CREDIT"),
    Link("claude", "anthropic", "us-east", AnthropicSimulator, "/v1",
         Status(529, None, "overloaded_error", "Overloaded"), "PROVIDER_ERROR"),
    Link("mistral", "mistral", "eu", MistralSimulator, "/v1", Cut(0), "TARGET_DOWN"),
    Link("gemini", "gemini", "eu-west", GeminiSimulator, "/v1beta", rate_limited(7), "PROVIDER_RATE_LIMITED"),
)  # fmt: skip


@dataclass(slots=True)
class Mesh:
    """A router before the whole chain."""

    remote: Remote
    simulators: dict[str, HttpSimulator]
    store_url: str

    async def ask(self) -> v1.GenerateResponse:
        """Ask once, streamed."""
        stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        message = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="Where is my order?")])
        spec = v1.GenerationSpec(chat=v1.Chat(messages=[message]))
        request, folder = v1.StreamGenerateRequest(spec=spec), Folder()
        call = Call("test", Deadline.after(30.0))
        async with self.remote.stream(stub.StreamGenerate, request, call, span_name="test") as responses:
            async for response in responses:
                folder.add(response.event)
        return folder.whole()

    async def audit(self, calls: int) -> list[Mapping[str, Any]]:
        """What the audit trail says of each call, in order, once it has the outcome of so many."""
        store = Redis.from_url(self.store_url)
        try:
            async with asyncio.timeout(10):
                while True:
                    entries: Any = await store.xrange(audit.STREAM)
                    found = audit.folded(audit.read(entries))
                    if len(found) == calls and all(call["outcome"] != audit.UNKNOWN for call in found):
                        return found
                    await asyncio.sleep(0.01)
        finally:
            await store.aclose()


@asynccontextmanager
async def meshed(valkey: str) -> AsyncIterator[Mesh]:
    """The whole chain, healthy, over real gRPC and HTTP."""
    async with AsyncExitStack() as stack:
        simulators = {link.name: link.make() for link in CHAIN}
        urls = {}
        for link in CHAIN:
            simulator = simulators[link.name]
            if isinstance(simulator, RuntimeSimulator):
                urls[link.name] = await stack.enter_async_context(serving_runtime(simulator))
            else:
                urls[link.name] = await stack.enter_async_context(serving(simulator, base=link.base))
        runtime = RuntimeSettings.model_validate({"kind": "ollama", "address": urls["ollama"], "model": "m"})
        engine = await stack.enter_async_context(build_engine(LocalEngineSettings(server=LOOPBACK, runtime=runtime)))
        await engine.starting
        store = StoreSettings(url=valkey, timeout_s=5.0)
        providers = tuple(_provider(link, urls[link.name]) for link in CHAIN[1:])
        proxy = await stack.enter_async_context(
            build_proxy(CloudProxySettings(server=LOOPBACK, store=store, providers=providers), environ={})
        )
        targets = tuple(
            _target(link, engine.server.address if link.kind == "ollama" else proxy.server.address) for link in CHAIN
        )
        policy = PolicySettings(order=tuple(link.target for link in CHAIN), max_retries_per_target=0)
        router = await stack.enter_async_context(
            build_router(RouterSettings(server=LOOPBACK, store=store, targets=targets, policy=policy))
        )
        remote = Remote(router.server.address, tracing=Tracing("caller"))
        stack.push_async_callback(remote.close)
        yield Mesh(remote, simulators, valkey)


def _provider(link: Link, url: str) -> ProviderSettings:
    return ProviderSettings.model_validate(
        {
            "name": link.name,
            "kind": link.kind,
            "region": link.region,
            "base_url": url,
            "simulated": True,
            "models": [{"name": "m", "context_window": 100_000}],
        }
    )


def _target(link: Link, address: str) -> TargetSettings:
    declared: dict[str, Any] = {"name": link.target, "address": address, "context_window": 100_000}
    if link.kind == "ollama":
        return TargetSettings(kind="local", **declared)
    return TargetSettings(kind="cloud", model=link.target, region=link.region, **declared)


@pytest.mark.parametrize("failing", range(len(CHAIN)))
async def test_the_next_of_the_chain_answers_and_the_answer_says_who(valkey: str, failing: int) -> None:
    async with meshed(valkey) as mesh:
        for link in CHAIN[:failing]:
            mesh.simulators[link.name].faults = Faults(always=link.fault)
        answer = await mesh.ask()
        assert answer.started.target == CHAIN[failing].target
        assert answer.choices[0].content.text
        told = [(attempt.target, attempt.reason) for attempt in answer.usage.attempts]
        assert told == [(link.target, link.reason) for link in CHAIN[:failing]] + [(CHAIN[failing].target, "")]
        for link in CHAIN[failing + 1 :]:
            assert not mesh.simulators[link.name].seen, f"{link.name} was asked, and nobody needed it"
        left = [(call["provider"], call["region"]) for call in await mesh.audit(failing) if call["left"]]
        assert left == [(link.name, link.region) for link in CHAIN[1 : failing + 1]]


async def test_when_all_fail_the_error_lists_every_attempt(valkey: str) -> None:
    async with meshed(valkey) as mesh:
        for link in CHAIN:
            mesh.simulators[link.name].faults = Faults(always=link.fault)
        with pytest.raises(AllTargetsFailed) as raised:
            await mesh.ask()
        listed = [raised.value.metadata[f"attempt_{number}"] for number in range(1, len(CHAIN) + 1)]
        for link, said in zip(CHAIN, listed, strict=True):
            assert link.target in said
            assert link.reason in said
