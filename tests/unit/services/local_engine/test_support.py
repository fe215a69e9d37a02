"""What this engine cannot do is refused by name."""

from __future__ import annotations

import pytest

from services.local_engine.support import CAPABILITIES, EMBEDDING, require, require_embedding
from spillway import v1
from spillway.errors import AdapterUnknown, ConstraintUnsupported, ModelUnknown, SpillwayError

NAMES = frozenset({"bundled"})


@pytest.mark.parametrize(
    ("spec", "error", "field"),
    [
        (v1.GenerationSpec(model="x"), ModelUnknown, "spec.model"),
        (v1.GenerationSpec(adapter="x"), AdapterUnknown, "spec.adapter"),
        (v1.GenerationSpec(text=v1.TextPrompt(suffix="")), ConstraintUnsupported, "spec.text.suffix"),
        (v1.GenerationSpec(tools=[v1.Tool(name="t")]), ConstraintUnsupported, "spec.tools"),
        (v1.GenerationSpec(tool_choice=v1.ToolChoice(name="t")), ConstraintUnsupported, "spec.tool_choice"),
        (
            v1.GenerationSpec(reasoning_effort=v1.REASONING_EFFORT_HIGH),
            ConstraintUnsupported,
            "spec.reasoning_effort",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_by_field(spec: v1.GenerationSpec, error: type[SpillwayError], field: str) -> None:
    with pytest.raises(error) as refusal:
        require(spec, NAMES)
    assert [violation.field for violation in refusal.value.fields] == [field]


def test_what_is_told_of_a_prompts_tokens_is_a_capability_of_its_own() -> None:
    spec = v1.GenerationSpec(logprobs=v1.Logprobs(prompt=0))
    require(spec, NAMES)
    with pytest.raises(ConstraintUnsupported, match=r"spec\.logprobs\.prompt"):
        require(spec, NAMES, (v1.CAPABILITY_LOGPROBS,))


def test_what_asks_for_nothing_passes() -> None:
    require(v1.GenerationSpec(), NAMES)
    require(
        v1.GenerationSpec(
            model="bundled",
            reasoning_effort=v1.REASONING_EFFORT_NONE,
            tool_choice=v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_NONE),
        ),
        NAMES,
    )


def test_a_model_has_one_rpc_and_the_other_is_refused_by_its_name() -> None:
    text = v1.EmbeddingSpec(inputs=[v1.EmbeddingInput(text="a")])
    require_embedding(text, NAMES, EMBEDDING)
    with pytest.raises(ConstraintUnsupported) as embedding:
        require_embedding(text, NAMES, CAPABILITIES)
    with pytest.raises(ConstraintUnsupported) as generation:
        require(v1.GenerationSpec(), NAMES, EMBEDDING)
    assert [refusal.value.metadata["rpc"] for refusal in (embedding, generation)] == ["Embed", "Generate"]


def test_tokens_are_refused_by_place_where_only_text_is_taken() -> None:
    inputs = [v1.EmbeddingInput(text="a"), v1.EmbeddingInput(tokens=v1.EmbeddingTokens(ids=[1]))]
    require_embedding(v1.EmbeddingSpec(inputs=inputs), NAMES, EMBEDDING)
    with pytest.raises(ConstraintUnsupported) as refusal:
        require_embedding(v1.EmbeddingSpec(inputs=inputs), NAMES, (v1.CAPABILITY_EMBEDDINGS,))
    assert [found.field for found in refusal.value.fields] == ["spec.inputs[1].tokens"]
