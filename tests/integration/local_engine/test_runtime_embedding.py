"""The engine before runtimes that embed, through gRPC on one side and HTTP on the other."""

from __future__ import annotations

from typing import Any

import pytest

from spillway import v1
from spillway.errors import ConstraintUnsupported, TargetModelMissing
from spillway.testing.vectors import vector
from tests.integration.local_engine.runtime_rig import Rig, asking, call, running


def texts(*inputs: str, **fields: Any) -> v1.EmbeddingSpec:
    return v1.EmbeddingSpec(inputs=[v1.EmbeddingInput(text=one) for one in inputs], **fields)


async def embedded(rig: Rig, spec: v1.EmbeddingSpec) -> v1.EmbedResponse:
    return await rig.remote.unary(rig.inference.Embed, v1.EmbedRequest(spec=spec), call(), span_name="test")


@pytest.mark.parametrize("kind", ["vllm-serve", "llama-cpp", "ollama", "lm-studio", "openai"])
async def test_a_runtime_embeds_where_it_is_said_to(kind: str) -> None:
    async with running(kind, capabilities=["embeddings"], model="simulated") as rig:
        answer = await embedded(rig, texts("two words", "one", dimensions=4))
        with pytest.raises(ConstraintUnsupported, match="embeds, and generates nothing"):
            await rig.generate(asking())
        tokens = v1.EmbeddingSpec(inputs=[v1.EmbeddingInput(tokens=v1.EmbeddingTokens(ids=[1]))])
        with pytest.raises(ConstraintUnsupported, match=r"spec.inputs\[0\].tokens"):
            await embedded(rig, tokens)
    assert [list(one.values) for one in answer.embeddings] == [
        pytest.approx(vector("simulated", text, 4), abs=1e-6) for text in ("two words", "one")
    ]
    assert (answer.model, answer.usage.prompt_tokens) == ("simulated", 3)


async def test_a_runtimes_404_for_a_model_that_it_had_is_its_own_trouble() -> None:
    async with running("ollama", capabilities=["embeddings"]) as rig:
        rig.simulator.models = ("another",)
        with pytest.raises(TargetModelMissing):
            await embedded(rig, texts("a"))
