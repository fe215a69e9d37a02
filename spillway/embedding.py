"""What every server of `InferenceService` does with an embedding: check the request, and that the vectors are whole."""

from __future__ import annotations

import math
from collections.abc import Iterator

from spillway import v1
from spillway.errors import FieldViolation, RequestInvalid, TargetDown
from spillway.generation import MAX_PROMPT_BYTES, extra_violations

Spec = v1.GenerationSpec | v1.EmbeddingSpec
"""What may be asked of a mesh."""
MAX_INPUTS = 2048
"""Inputs of one request: what OpenAI takes too."""


def check(spec: v1.EmbeddingSpec) -> None:
    """Raise RequestInvalid naming every field of `spec` that no target could serve."""
    wrong = list(_violations(spec))
    if wrong:
        said = "; ".join(f"{violation.field}: {violation.description}" for violation in wrong[:3])
        raise RequestInvalid(said, fields=wrong)


def _violations(spec: v1.EmbeddingSpec) -> Iterator[FieldViolation]:
    if not spec.inputs:
        yield FieldViolation("spec.inputs", "is empty: give at least one input")
    if len(spec.inputs) > MAX_INPUTS:
        yield FieldViolation("spec.inputs", f"has {len(spec.inputs)} inputs; at most {MAX_INPUTS} are accepted at once")
        return
    for index, one in enumerate(spec.inputs):
        match one.WhichOneof("input"):
            case None:
                yield FieldViolation(f"spec.inputs[{index}]", "is empty: set text or tokens")
            case "text" if not one.text:
                yield FieldViolation(f"spec.inputs[{index}].text", "is empty: say what is to be embedded")
            case "tokens" if not one.tokens.ids:
                yield FieldViolation(f"spec.inputs[{index}].tokens.ids", "is empty: give at least one token")
    if (size := sum(map(input_bytes, spec.inputs))) > MAX_PROMPT_BYTES:
        yield FieldViolation("spec.inputs", f"has {size} bytes; at most {MAX_PROMPT_BYTES} are accepted")
    yield from extra_violations(spec.extra)
    if spec.HasField("dimensions") and not spec.dimensions:
        yield FieldViolation("spec.dimensions", "must be at least 1")


def input_bytes(one: v1.EmbeddingInput) -> int:
    """UTF-8 bytes of the text of one input; 0 for tokens."""
    return len(one.text.encode())


def require_whole(spec: v1.EmbeddingSpec, response: v1.EmbedResponse) -> None:
    """Raise TargetDown unless `response` has a finite vector for every input, all of one length, that asked for if any.

    A vector too few or too short is not to be told later from a good one: nothing of such an answer is kept.
    """
    told, asked = len(response.embeddings), len(spec.inputs)
    if told != asked:
        raise TargetDown(f"{told} vectors came for {asked} inputs")
    lengths = {len(one.values) for one in response.embeddings}
    if len(lengths) != 1 or 0 in lengths:
        raise TargetDown(f"the vectors are of different lengths: {sorted(lengths)}")
    if spec.HasField("dimensions") and lengths != {spec.dimensions}:
        raise TargetDown(f"the vectors have {lengths.pop()} dimensions, asked for were {spec.dimensions}")
    if not all(math.isfinite(sum(one.values)) for one in response.embeddings):  # finite floats have a finite sum
        raise TargetDown("the vectors are not finite: the model's dtype may be too narrow for it")
    if not response.HasField("usage"):
        raise TargetDown("the answer has no usage")
