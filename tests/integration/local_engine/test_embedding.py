"""A model that embeds and a mixture of experts on the real vLLM, with random weights, through the same rpcs."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import ConstraintUnsupported, ContextLengthExceeded, DeadlineExceeded, RequestInvalid
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry.tracing import Tracing
from spillway.testing.server import LOOPBACK
from spillway.testing.waiting import eventually
from spillway.v1 import engine_pb2_grpc, inference_pb2_grpc
from tests.integration.local_engine import random_model

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn their own developers while they load
]

START_S = 300.0
CONTEXT = 64
SIZE = 128
TEXTS = ("Where is my parcel?", "My parcel has not come.", "The invoice is wrong, and I was charged twice.")


def encoder(folder: Path) -> Path:
    """A small BERT whose vectors may be shortened, with the bundled model's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=2048,
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        initializer_range=0.3,
    )
    config.is_matryoshka = True
    model: Any = BertModel
    model(config).save_pretrained(folder)
    return with_tokenizer(folder)


def with_tokenizer(folder: Path) -> Path:
    from services.local_engine.settings import BUNDLED_MODEL

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUNDLED_MODEL / name, folder / name)
    return folder


def by_hand(folder: Path, text: str) -> tuple[list[int], list[float]]:
    """The tokens of `text` and its vector, by transformers alone: the first token's state, of length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state
    return ids, torch.nn.functional.normalize(states[0, 0], dim=0).tolist()


class Engine:
    """A client of one local engine."""

    def __init__(self, app: Any, remote: Remote, folder: Path) -> None:
        self.app = app
        self.remote = remote
        self.folder = folder
        self.inference = inference_pb2_grpc.InferenceServiceStub(remote.channel)
        self.telemetry = engine_pb2_grpc.EngineTelemetryServiceStub(remote.channel)

    async def embed(self, *inputs: str | list[int], seconds: float = 30.0, **fields: Any) -> v1.EmbedResponse:
        told = [
            v1.EmbeddingInput(text=one)
            if isinstance(one, str)
            else v1.EmbeddingInput(tokens=v1.EmbeddingTokens(ids=one))
            for one in inputs
        ]
        request = v1.EmbedRequest(spec=v1.EmbeddingSpec(inputs=told, **fields))
        call = Call("test", Deadline.after(seconds))
        return await self.remote.unary(self.inference.Embed, request, call, span_name="test")

    async def generate(self, **fields: Any) -> v1.GenerateResponse:
        spec = v1.GenerationSpec(text=v1.TextPrompt(text="Hello"), **fields)
        call = Call("test", Deadline.after(30))
        return await self.remote.unary(self.inference.Generate, v1.GenerateRequest(spec=spec), call, span_name="test")

    async def load(self) -> v1.Load:
        call = Call("test", Deadline.after(30))
        told = await self.remote.unary(self.telemetry.GetLoad, v1.GetLoadRequest(), call, span_name="test")
        return told.load


async def serving(folder: Path) -> AsyncIterator[Engine]:
    from services.local_engine.app import build
    from services.local_engine.settings import CpuSettings, LocalEngineSettings, VllmSettings

    vllm = VllmSettings(dtype="float32", max_num_seqs=8, cpu=CpuSettings(kv_cache_gib=0.25, bind="nobind"))
    settings = LocalEngineSettings(server=LOOPBACK, model=str(folder), served_name="tiny", vllm=vllm)
    async with build(settings) as app:
        async with asyncio.timeout(START_S):
            await app.starting
        remote = Remote(app.server.address, tracing=Tracing("test"))
        yield Engine(app, remote, folder)
        await remote.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    async for engine in serving(encoder(tmp_path_factory.mktemp("embedder") / "encoder")):
        yield engine


async def test_vectors_are_those_that_the_model_computes_by_hand(embedder: Engine) -> None:
    answer = await embedder.embed(*TEXTS)
    assert (answer.model, answer.target, answer.request_id) == ("tiny", "local", "test")
    tokens = 0
    for text, vector in zip(TEXTS, answer.embeddings, strict=True):
        ids, expected = by_hand(embedder.folder, text)
        tokens += len(ids)
        assert list(vector.values) == pytest.approx(expected, abs=1e-4)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (tokens, 0)
    assert len({tuple(vector.values) for vector in answer.embeddings}) == len(TEXTS)


async def test_tokens_are_embedded_as_the_text_they_stand_for(embedder: Engine) -> None:
    ids, _ = by_hand(embedder.folder, TEXTS[0])
    answer = await embedder.embed(TEXTS[0], ids)
    by_text, by_tokens = (list(one.values) for one in answer.embeddings)
    assert by_tokens == pytest.approx(by_text, abs=1e-5)


async def test_vectors_are_shortened_where_the_model_can_and_keep_the_length_of_one(embedder: Engine) -> None:
    (short,) = (await embedder.embed(TEXTS[0], dimensions=16)).embeddings
    (whole,) = (await embedder.embed(TEXTS[0], dimensions=SIZE)).embeddings
    head = list(whole.values)[:16]
    assert list(short.values) == pytest.approx([value / math.hypot(*head) for value in head], abs=1e-4)


@pytest.mark.parametrize(
    ("inputs", "fields", "error", "field"),
    [
        ((), {}, RequestInvalid, "spec.inputs"),
        (("a", ""), {}, RequestInvalid, "spec.inputs[1].text"),
        (("a", [1, 2048]), {}, RequestInvalid, "spec.inputs[1].tokens.ids"),
        (("a", "word " * 100), {}, ContextLengthExceeded, "spec.inputs[1].text"),
        (([5] * (CONTEXT + 1),), {}, ContextLengthExceeded, "spec.inputs[0].tokens.ids"),
        (("a",), {"dimensions": SIZE + 1}, ConstraintUnsupported, "spec.dimensions"),
        (("a",), {"dimensions": 0}, RequestInvalid, "spec.dimensions"),
        (("a",), {"extra": {"pooling": "mean"}}, ConstraintUnsupported, "spec.extra.pooling"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_field(
    embedder: Engine, inputs: Any, fields: dict[str, Any], error: type[RequestInvalid], field: str
) -> None:
    with pytest.raises(error) as refusal:
        await embedder.embed(*inputs, **fields)
    assert type(refusal.value) is error
    assert [found.field for found in refusal.value.fields] == [field]


async def test_an_input_that_fills_the_context_is_embedded(embedder: Engine) -> None:
    assert len((await embedder.embed([5] * CONTEXT)).embeddings) == 1


async def test_a_model_that_embeds_generates_nothing_and_says_so(embedder: Engine) -> None:
    with pytest.raises(ConstraintUnsupported, match="Generate: this model embeds") as refusal:
        await embedder.generate()
    assert refusal.value.metadata["rpc"] == "Generate"
    (model,) = embedder.app.engine.models()
    assert set(model.capabilities) == {v1.CAPABILITY_EMBEDDINGS, v1.CAPABILITY_TOKEN_INPUT}
    assert model.context_window == CONTEXT


async def test_a_caller_whose_time_is_up_leaves_the_engine_nothing_to_do(embedder: Engine) -> None:
    many = [[5 + index % 1000] * CONTEXT for index in range(2000)]
    with pytest.raises(DeadlineExceeded):
        await embedder.embed(*many, seconds=0.3)
    await eventually(lambda: embedder.app.engine.running == 0)
    load = await embedder.load()
    assert (load.state, load.running, load.waiting) == (v1.ENGINE_STATE_SERVING, 0, 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mixture(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    shape = {**random_model.MIXTURE, "vocab_size": 2048, "eos_token_id": 1}
    async for engine in serving(
        with_tokenizer(random_model.write(tmp_path_factory.mktemp("mixture") / "mixture", shape))
    ):
        yield engine


async def test_a_mixture_of_experts_generates_as_any_model_does(mixture: Engine) -> None:
    greedy = v1.Sampling(temperature=0, max_tokens=12)
    answer = await mixture.generate(sampling=greedy, stop=v1.Stop(ignore_eos=True))
    assert len(answer.choices[0].content.token_ids) == 12 == answer.usage.completion_tokens
    again = await mixture.generate(sampling=greedy, stop=v1.Stop(ignore_eos=True))
    assert again.choices[0].content.token_ids == answer.choices[0].content.token_ids


async def test_a_model_that_generates_embeds_nothing_and_says_so(mixture: Engine) -> None:
    with pytest.raises(ConstraintUnsupported, match="Embed: this model generates") as refusal:
        await mixture.embed("hello")
    assert refusal.value.metadata["rpc"] == "Embed"
