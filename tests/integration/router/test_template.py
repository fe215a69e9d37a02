"""A mesh whose file is in the template's words, in process: router, engine, cloud proxy, a simulated provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.cloud_proxy import app as cloud_proxy
from services.cloud_proxy.settings import CloudProxySettings
from services.local_engine import app as local_engine
from services.local_engine.settings import LocalEngineSettings
from services.router import app as router
from services.router.settings import RouterSettings
from spillway import v1
from spillway.cli import ports
from spillway.deadline import Deadline
from spillway.errors import AllTargetsFailed, TargetDown
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.settings import load
from spillway.store.embedded import embedded_valkey
from spillway.telemetry.tracing import Tracing
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Refuse, Script
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.v1 import inference_pb2_grpc
from tests.integration.router.mesh import chat

TEMPLATE = """
routing:
  local_context_limit: 50
  fallback_max_retries: 2
local_engine:
  model: {model}
  quantization: Q3_K_M
  server: {{listen: "{engine}", announce_s: 0, drain_s: 0}}
  {endpoint}
cloud_engine:
  provider: simulated
  model: big
  fallback_models: [bigger]
  endpoint: {provider}
  region: us
  rate_limit: 1000 requests/min
observability:
  retention_days: 90
router: {{server: {{listen: "127.0.0.1:0", announce_s: 0, drain_s: 0}}, ledger: null, validator: null}}
cloud_proxy: {{server: {{listen: "{proxy}", announce_s: 0, drain_s: 0}}, store: {{url: "{store}"}}}}
"""
LONG = "word " * 100


@dataclass
class Built:
    """What the file made, and what it was made before."""

    remote: Remote
    engine: FakeEngine
    provider: OpenAISimulator
    runtime: OpenAISimulator

    async def generate(self, prompt: str, policy: v1.RoutingPolicy | None = None) -> v1.GenerateResponse:
        stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        request = v1.GenerateRequest(spec=chat(prompt), policy=policy)
        return await self.remote.unary(stub.Generate, request, Call("test", Deadline.after(20)), span_name="test")

    async def target(self, prompt: str, policy: v1.RoutingPolicy | None = None) -> str:
        return (await self.generate(prompt, policy)).started.target

    @property
    def asked(self) -> list[object]:
        """Models the provider was asked for."""
        return [seen.body["model"] for seen in self.provider.seen]


@asynccontextmanager
async def built(folder: Path, *, runtime: bool = False) -> AsyncIterator[Built]:
    """A mesh from a file; with `runtime` its local target is one with an OpenAI-style API."""
    engine, provider, local = FakeEngine(model="small"), OpenAISimulator(), OpenAISimulator(models=("llama3.1:8b",))
    async with AsyncExitStack() as stack:
        on_site = await stack.enter_async_context(serving_engine(engine))
        endpoint = (await stack.enter_async_context(serving_openai(local))).removesuffix("/v1")
        chosen = ports.choose({"cloud_proxy": 47_390, "local_engine": 47_391})
        file = folder / "mesh.yaml"
        text = TEMPLATE.format(
            model="llama3.1:8b" if runtime else "some/model",
            engine=f"{ports.LOOPBACK}:{chosen['local_engine']}" if runtime else on_site.address,
            endpoint=f"endpoint: {endpoint}" if runtime else "",
            provider=await stack.enter_async_context(serving_openai(provider)),
            proxy=f"{ports.LOOPBACK}:{chosen['cloud_proxy']}",
            store=await stack.enter_async_context(embedded_valkey()),
        )
        file.write_text(text)
        proxy = load("cloud_proxy", CloudProxySettings, path=file, environ={})
        await stack.enter_async_context(cloud_proxy.build(proxy, environ={}, tracing=Tracing("cloud_proxy")))
        if runtime:
            before = load("local_engine", LocalEngineSettings, path=file, environ={})
            app = await stack.enter_async_context(local_engine.build(before, tracing=Tracing("local_engine")))
            await app.starting
        settings = load("router", RouterSettings, path=file, environ={})
        built_router = await stack.enter_async_context(router.build(settings, tracing=Tracing("router")))
        remote = Remote(built_router.server.address, tracing=Tracing("test"))
        stack.push_async_callback(remote.close)
        yield Built(remote, engine, provider, local)


async def test_a_small_prompt_stays_and_one_over_the_local_limit_goes_to_the_cloud(tmp_path: Path) -> None:
    async with built(tmp_path) as mesh:
        assert await mesh.target("hello") == "local"
        assert mesh.asked == []
        assert await mesh.target(LONG) == "simulated/big"
        assert mesh.asked == ["big"]
        assert len(mesh.engine.seen) == 1


async def test_the_fallback_models_are_asked_in_their_order(tmp_path: Path) -> None:
    async with built(tmp_path) as mesh:
        mesh.engine.faults = Script(always=Refuse(TargetDown("gone")))
        assert await mesh.target("hello") == "simulated/big"
        answer = await mesh.generate("again", v1.RoutingPolicy(denied_targets=["simulated/big"]))
        assert answer.started.target == "simulated/bigger"
        assert mesh.asked == ["big", "bigger"]


async def test_a_task_that_needs_more_bits_than_the_quantization_leaves_goes_to_the_cloud(tmp_path: Path) -> None:
    async with built(tmp_path) as mesh:
        assert await mesh.target("hello", v1.RoutingPolicy(task=v1.TASK_CODE)) == "simulated/big"
        assert await mesh.target("hello", v1.RoutingPolicy(task=v1.TASK_TAG)) == "local"


async def test_a_runtime_at_an_endpoint_is_the_local_target(tmp_path: Path) -> None:
    async with built(tmp_path, runtime=True) as mesh:
        assert await mesh.target("hello") == "local"
        assert [seen.body["model"] for seen in mesh.runtime.seen] == ["llama3.1:8b"] * 2  # the first was the warm-up
        assert await mesh.target(LONG) == "simulated/big"
        assert mesh.asked == ["big"]


@pytest.mark.parametrize(
    "stays",
    [v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY), v1.DataPolicy(sensitivity=v1.SENSITIVITY_CONFIDENTIAL)],
    ids=["local_only", "confidential"],
)
async def test_content_that_must_stay_is_answered_by_the_runtime_and_by_it_alone(
    tmp_path: Path, stays: v1.DataPolicy
) -> None:
    async with built(tmp_path, runtime=True) as mesh:
        assert await mesh.target("hello", v1.RoutingPolicy(data_policy=stays)) == "local"
        mesh.runtime.models = ()
        with pytest.raises(AllTargetsFailed):
            await mesh.generate("hello", v1.RoutingPolicy(data_policy=stays))
        assert (mesh.asked, len(mesh.runtime.seen)) == ([], 3)  # the first word of all, the answer, the refusal
