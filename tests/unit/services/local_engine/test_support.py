"""What this engine cannot do is refused by name."""

from __future__ import annotations

import pytest

from services.local_engine.support import require
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
