"""Embed, as everything that embeds promises it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from spillway import errors, v1
from spillway.deadline import Deadline
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.settings import StoreSettings
from spillway.store.embedded import embedded_valkey
from spillway.testing.fake_engine import FakeEngine, serving_engine
from spillway.testing.faults import Cut, Refuse, Script, Silence
from spillway.testing.openai_faults import Faults, MissingFinish, rate_limited
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.runtime_simulator import RuntimeSimulator, serving_runtime
from spillway.testing.server import LOOPBACK
from spillway.testing.vectors import vector
from spillway.testing.waiting import eventually
from spillway.v1 import inference_pb2_grpc
from tests.contract.conftest import connected, runtime_engine, runtime_settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Embedder:
    """A server of Embed. `be_silent`, `lose_one` and `exhaust` make the next request go wrong."""

    remote: Remote
    model: str
    knows: str
    """What its vectors are made of: the model as the last in the line calls it."""
    running: Callable[[], int]
    be_silent: Callable[[], None]
    lose_one: Callable[[], None]
    exhaust: Callable[[], None]

    async def embed(self, *texts: str, seconds: float = 10.0, **fields: Any) -> v1.EmbedResponse:
        inputs = [v1.EmbeddingInput(text=text) for text in texts]
        spec = v1.EmbeddingSpec(**{"model": self.model, "inputs": inputs, **fields})
        stub = inference_pb2_grpc.InferenceServiceStub(self.remote.channel)
        request = v1.EmbedRequest(spec=spec, stamp=STAMP)
        return await self.remote.unary(stub.Embed, request, Call("contract", Deadline.after(seconds)), span_name="test")


STAMP = v1.PolicyStamp(router="contract", policy_revision="1", data_policy=v1.DataPolicy(residency=v1.RESIDENCY_ANY))


def over_engine(remote: Remote, engine: FakeEngine, model: str) -> Embedder:
    def script(fault: Any) -> Callable[[], None]:
        return lambda: setattr(engine, "faults", Script(fault))

    down, full = Refuse(errors.TargetDown("gone")), Refuse(errors.QueueFull("full", retry_after_s=1.5))
    # An engine that answers too little is a router's business; this one does not judge itself.
    lost = Cut(1) if not model else down
    return Embedder(remote, model, "e5", lambda: engine.running, script(Silence()), script(lost), script(full))


def over_provider(remote: Remote, simulator: OpenAISimulator, model: str, knows: str) -> Embedder:
    def script(fault: Any) -> Callable[[], None]:
        return lambda: setattr(simulator, "faults", Faults(fault))

    hooks = script(Silence()), script(MissingFinish(1)), script(rate_limited(1.5))
    return Embedder(remote, model, knows, lambda: simulator.running, *hooks)


def engine() -> FakeEngine:
    return FakeEngine(model="e5", vector=lambda one: vector("e5", one.text or list(one.tokens.ids)))


@asynccontextmanager
async def fake() -> AsyncIterator[Embedder]:
    made = engine()
    async with serving_engine(made) as server, connected(server.address) as remote:
        yield over_engine(remote, made, "e5")


@asynccontextmanager
async def router() -> AsyncIterator[Embedder]:
    from services.router.app import build
    from services.router.policy_settings import PolicySettings, TargetSettings
    from services.router.settings import RouterSettings

    made = engine()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving_engine(made))
        target = TargetSettings(
            name="local", kind="local", address=server.address, capabilities=frozenset({"embeddings"})
        )
        settings = RouterSettings(server=LOOPBACK, targets=(target,), policy=PolicySettings(max_retries_per_target=0))
        app = await stack.enter_async_context(build(settings))
        remote = await stack.enter_async_context(connected(app.server.address))
        yield over_engine(remote, made, "")


@asynccontextmanager
async def cloud_proxy() -> AsyncIterator[Embedder]:
    from services.cloud_proxy.app import build
    from services.cloud_proxy.settings import CloudProxySettings, ModelSettings, ProviderSettings

    simulator = OpenAISimulator()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(embedded_valkey())
        provider = ProviderSettings(
            name="simulated",
            base_url=await stack.enter_async_context(serving_openai(simulator)),
            region="eu",
            simulated=True,
            max_closed_s=0,
            models=(ModelSettings(name="e5", capabilities=frozenset({"embeddings"})),),
        )
        settings = CloudProxySettings(server=LOOPBACK, store=StoreSettings(url=store), providers=(provider,))
        app = await stack.enter_async_context(build(settings, environ={}))
        remote = await stack.enter_async_context(connected(app.server.address))
        yield over_provider(remote, simulator, "simulated/e5", "e5")


@asynccontextmanager
async def runtime() -> AsyncIterator[Embedder]:
    simulator = RuntimeSimulator(kind="ollama", packs=False)  # a runtime that knows no base64
    async with serving_runtime(simulator) as address:
        settings = runtime_settings("ollama", address, capabilities=["embeddings"])
        async with runtime_engine(settings) as (_, remote):
            yield over_provider(remote, simulator, "", "simulated")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[fake, router, cloud_proxy, runtime])
async def embedder(request: pytest.FixtureRequest) -> AsyncIterator[Embedder]:
    async with request.param() as found:
        yield found


async def test_every_input_has_its_vector_in_order_and_the_answer_says_who_made_it(embedder: Embedder) -> None:
    texts = ("two words", "one", "two words")
    answer = await embedder.embed(*texts)
    for text, told in zip(texts, answer.embeddings, strict=True):
        assert list(told.values) == pytest.approx(vector(embedder.knows, text), abs=1e-6)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 0)
    assert answer.model
    assert answer.target
    assert answer.request_id == "contract"


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ([], "spec.inputs"),
        ([v1.EmbeddingInput(text="a"), v1.EmbeddingInput()], "spec.inputs[1]"),
        ([v1.EmbeddingInput(text="a")] * 3 + [v1.EmbeddingInput(text="")], "spec.inputs[3].text"),
        ([v1.EmbeddingInput(tokens=v1.EmbeddingTokens())], "spec.inputs[0].tokens.ids"),
        ([v1.EmbeddingInput(text="a")] * 2049, "spec.inputs"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_field(
    embedder: Embedder, inputs: list[v1.EmbeddingInput], field: str
) -> None:
    with pytest.raises(errors.RequestInvalid) as refusal:
        await embedder.embed(inputs=inputs)
    assert [found.field for found in refusal.value.fields] == [field]


async def test_a_model_that_is_not_there_is_unknown(embedder: Embedder) -> None:
    with pytest.raises(errors.ModelUnknown):
        await embedder.embed("hello", model="simulated/nobody")


async def test_vectors_that_are_not_all_there_are_no_answer(embedder: Embedder) -> None:
    embedder.lose_one()
    with pytest.raises(errors.TargetUnavailable):
        await embedder.embed("one", "two", "three")


async def test_a_limit_is_told_with_when_to_come_back(embedder: Embedder) -> None:
    embedder.exhaust()
    with pytest.raises(errors.SpillwayError) as refusal:
        await embedder.embed("hello")
    assert refusal.value.retry_after_s == 1.5


async def test_nothing_runs_past_the_deadline(embedder: Embedder) -> None:
    embedder.be_silent()
    with pytest.raises(errors.DeadlineExceeded):
        await embedder.embed("hello", seconds=0.2)
    await eventually(lambda: embedder.running() == 0)


async def test_a_caller_that_leaves_ends_the_work(embedder: Embedder) -> None:
    embedder.be_silent()
    asking = asyncio.create_task(embedder.embed("hello"))
    await eventually(lambda: embedder.running() == 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: embedder.running() == 0)
