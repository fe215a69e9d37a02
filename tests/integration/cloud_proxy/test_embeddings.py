"""Embeddings through the cloud proxy, over gRPC and real HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from spillway import v1
from spillway.errors import (
    ConstraintUnsupported,
    DeadlineExceeded,
    PolicyBlocked,
    ProviderAuthFailed,
    ProviderError,
    ProviderRateLimited,
    SpillwayError,
    TargetDown,
)
from spillway.telemetry import names
from spillway.testing.faults import Cut, Silence
from spillway.testing.openai_faults import Faults, MissingFinish, Page, Status, rate_limited
from spillway.testing.openai_simulator import OpenAISimulator
from spillway.testing.vectors import vector
from spillway.testing.waiting import eventually
from spillway.v1 import inference_pb2_grpc
from tests.integration.cloud_proxy.rig import STAMP, Rig, call, raw, running, spec

MODELS = [
    {"name": "gpt-4o-mini"},
    {"name": "text-embedding-3-small", "capabilities": ["embeddings", "token_input"]},
    {"name": "plain", "capabilities": ["embeddings"]},
]
MODEL = "openai/text-embedding-3-small"


async def embed(
    rig: Rig, *inputs: str | list[int], stamp: v1.PolicyStamp | None = STAMP, seconds: float = 20.0, **fields: Any
) -> v1.EmbedResponse:
    told = [
        v1.EmbeddingInput(text=one) if isinstance(one, str) else v1.EmbeddingInput(tokens=v1.EmbeddingTokens(ids=one))
        for one in inputs
    ]
    request = v1.EmbedRequest(spec=v1.EmbeddingSpec(**{"model": MODEL, "inputs": told, **fields}), stamp=stamp)
    stub = inference_pb2_grpc.InferenceServiceStub(rig.remote.channel)
    return await rig.remote.unary(stub.Embed, request, call(seconds), span_name="test")


@pytest.mark.parametrize("packs", [True, False], ids=["base64", "numbers"])
async def test_vectors_come_with_usage_cost_model_and_span(valkey: str, packs: bool) -> None:
    async with running(OpenAISimulator(packs=packs), valkey, models=MODELS) as rig:
        answer = await embed(rig, "two words", "one", dimensions=4, extra={"user": "u"})
        used = await rig.used()
        (span,) = rig.spans(names.PROVIDER_REQUEST)
    assert [list(one.values) for one in answer.embeddings] == [
        pytest.approx(vector("text-embedding-3-small", text, 4), abs=1e-6) for text in ("two words", "one")
    ]
    assert (answer.target, answer.model) == (MODEL, "text-embedding-3-small-simulated")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 0)
    assert answer.usage.cost_nano_usd == 3 * 20  # 0.02 USD per million tokens, by the price list
    assert used == (1, 3)
    body = rig.simulator.seen[-1].body
    assert body == {
        "model": "text-embedding-3-small",
        "input": ["two words", "one"],
        "dimensions": 4,
        "encoding_format": "base64",
        "user": "u",
    }
    assert span.attributes is not None
    assert span.attributes[names.INPUT_TOKENS] == 3


async def test_tokens_are_passed_on_where_the_model_takes_them(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, models=MODELS) as rig:
        await embed(rig, [1, 2], [3])
        assert rig.simulator.seen[-1].body["input"] == [[1, 2], [3]]
        with pytest.raises(ConstraintUnsupported, match=r"spec.inputs\[1\].tokens"):
            await embed(rig, "text", [3])
        with pytest.raises(ConstraintUnsupported, match=r"spec.inputs\[0\].tokens"):
            await embed(rig, [3], model="openai/plain")


async def test_a_model_does_one_thing_and_says_so(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, models=MODELS) as rig:
        for asked in (embed(rig, "a", model="openai/gpt-4o-mini"), rig.generate(spec(model=MODEL))):
            with pytest.raises(ConstraintUnsupported) as refusal:
                await asked
            assert refusal.value.metadata["rpc"] in ("Embed", "Generate")
        told = {model.name: set(model.capabilities) for model in (await rig.models()).models}
    assert told[MODEL] == {v1.CAPABILITY_EMBEDDINGS, v1.CAPABILITY_TOKEN_INPUT}
    assert rig.simulator.seen == []


async def test_nothing_leaves_without_a_stamp_that_lets_it(valkey: str) -> None:
    local = v1.PolicyStamp(data_policy=v1.DataPolicy(residency=v1.RESIDENCY_LOCAL_ONLY))
    async with running(OpenAISimulator(), valkey, models=MODELS) as rig:
        for stamp in (None, local):
            with pytest.raises(PolicyBlocked):
                await embed(rig, "secret", stamp=stamp)
    assert rig.simulator.seen == []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(401, "invalid_api_key"), ProviderAuthFailed),
        (Status(500), ProviderError),
        (Page(), ProviderError),
        (rate_limited(1.5), ProviderRateLimited),
        (Cut(0), TargetDown),
        (MissingFinish(1), ProviderError),
    ],
    ids=["key", "500", "page", "limit", "cut", "a vector too few"],
)
async def test_what_goes_wrong_there_has_its_name_and_its_account(
    valkey: str, fault: Any, error: type[SpillwayError]
) -> None:
    async with running(OpenAISimulator(faults=Faults(fault)), valkey, models=MODELS, max_closed_s=0) as rig:
        with pytest.raises(error):
            await embed(rig, "one", "two")
        assert (await rig.used())[0] == 1


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": "AAAA!"}, {"index": 1, "embedding": "AAAA"}],
        [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}],
        [{"index": 0, "embedding": [None]}, {"index": 1, "embedding": [1.0]}],
        "nothing",
    ],
)
async def test_an_answer_that_is_none_is_the_providers_failure(valkey: str, data: object) -> None:
    body = json.dumps({"data": data, "model": "m", "usage": {"prompt_tokens": 2}}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    async with (
        raw(head, body) as port,
        running(OpenAISimulator(), valkey, url=f"http://127.0.0.1:{port}/v1", models=MODELS) as rig,
    ):
        with pytest.raises(ProviderError):
            await embed(rig, "one", "two")


async def test_a_caller_that_leaves_or_runs_out_of_time_closes_the_connection(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Silence(), Silence()))
    async with running(simulator, valkey, models=MODELS) as rig:
        with pytest.raises(DeadlineExceeded):
            await embed(rig, "one", seconds=0.2)
        await eventually(lambda: simulator.running == 0)
        asking = asyncio.create_task(embed(rig, "one"))
        await eventually(lambda: simulator.running == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: simulator.running == 0)
        assert (await rig.used())[0] == 2
    assert all(seen.disconnected_at for seen in simulator.seen)
