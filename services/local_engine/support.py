"""What this engine cannot do: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Sequence

from spillway import v1
from spillway.errors import (
    UNSUPPORTED_RPC,
    AdapterUnknown,
    ConstraintUnsupported,
    FieldViolation,
    ModelUnknown,
    RequestInvalid,
)

CAPABILITIES: tuple[v1.Capability.ValueType, ...] = (
    v1.CAPABILITY_JSON_SCHEMA,
    v1.CAPABILITY_JSON_OBJECT,
    v1.CAPABILITY_REGEX,
    v1.CAPABILITY_GRAMMAR,
    v1.CAPABILITY_CHOICES,
    v1.CAPABILITY_LOGPROBS,
    v1.CAPABILITY_PROMPT_LOGPROBS,
    v1.CAPABILITY_TEXT_INPUT,
    v1.CAPABILITY_TOKEN_INPUT,
    v1.CAPABILITY_PREFILL,
)
EMBEDDING: tuple[v1.Capability.ValueType, ...] = (v1.CAPABILITY_EMBEDDINGS, v1.CAPABILITY_TOKEN_INPUT)
"""Of a model that embeds."""


def require(
    spec: v1.GenerationSpec,
    names: frozenset[str],
    capabilities: tuple[v1.Capability.ValueType, ...] = CAPABILITIES,
    adapters: Sequence[str] = (),
) -> None:
    """Raise ModelUnknown, AdapterUnknown or ConstraintUnsupported naming the first field that asks too much.

    `names` is what a spec's model may be; empty always means the one model there is. `capabilities` are the backend's,
    `adapters` those loaded.
    """
    _require_model(spec.model, names)
    if v1.CAPABILITY_EMBEDDINGS in capabilities:
        raise _other_rpc("Generate", "this model embeds, and generates nothing")
    if spec.adapter and spec.adapter not in adapters:
        raise unknown_adapter("spec.adapter", spec.adapter, adapters)
    if spec.text.HasField("suffix") and v1.CAPABILITY_SUFFIX not in capabilities:
        raise unsupported("spec.text.suffix", "this model is not asked to fill in the middle")
    if spec.logprobs.HasField("prompt") and v1.CAPABILITY_PROMPT_LOGPROBS not in capabilities:
        raise unsupported("spec.logprobs.prompt", "nothing is told of the prompt's tokens here")
    tools = v1.CAPABILITY_TOOLS in capabilities
    if spec.tools and not tools:
        raise unsupported("spec.tools", "tools are not supported here")
    if spec.HasField("tool_choice") and spec.tool_choice.mode != v1.TOOL_CHOICE_MODE_NONE and not tools:
        raise unsupported("spec.tool_choice", "tools are not supported here")
    effort = spec.reasoning_effort not in (v1.REASONING_EFFORT_UNSPECIFIED, v1.REASONING_EFFORT_NONE)
    if effort and v1.CAPABILITY_REASONING_EFFORT not in capabilities:
        raise unsupported("spec.reasoning_effort", "this model has no reasoning effort to set")


def require_embedding(
    spec: v1.EmbeddingSpec, names: frozenset[str], capabilities: tuple[v1.Capability.ValueType, ...]
) -> None:
    """Raise ModelUnknown or ConstraintUnsupported naming the first field that asks too much. See `require`."""
    _require_model(spec.model, names)
    if v1.CAPABILITY_EMBEDDINGS not in capabilities:
        raise _other_rpc("Embed", "this model generates, and embeds nothing")
    if v1.CAPABILITY_TOKEN_INPUT not in capabilities:
        for index, one in enumerate(spec.inputs):
            if one.HasField("tokens"):
                raise unsupported(f"spec.inputs[{index}].tokens", "this runtime is given text, not tokens")


def _require_model(model: str, names: frozenset[str]) -> None:
    if model and model not in names:
        said = f"is not served here; served: {', '.join(sorted(names))}"
        raise ModelUnknown(
            f"spec.model: {model[:100]!r} {said}", fields=[FieldViolation("spec.model", said)], resource=model
        )


def _other_rpc(rpc: str, said: str) -> ConstraintUnsupported:
    """The error for an rpc that is not this model's; by its metadata a router knows that another target may have it."""
    return ConstraintUnsupported(
        f"{rpc}: {said}", fields=[FieldViolation("spec.model", said)], metadata={UNSUPPORTED_RPC: rpc}
    )


def unknown_adapter(field: str, name: str, loaded: Sequence[str]) -> AdapterUnknown:
    """Return the error for `name`, which `field` holds and which is not among the adapters `loaded`."""
    said = f"is not loaded here; loaded: {', '.join(loaded)}" if loaded else "is not loaded here; there are no adapters"
    return AdapterUnknown(f"{field}: {name[:100]!r} {said}", fields=[FieldViolation(field, said)], resource=name[:100])


def unsupported(field: str, said: str) -> ConstraintUnsupported:
    """Return the error for a field this engine cannot honour."""
    return ConstraintUnsupported(f"{field}: {said}", fields=[FieldViolation(field, said)])


def invalid(field: str, said: str) -> RequestInvalid:
    """Return the error for a field that no engine could honour."""
    return RequestInvalid(f"{field}: {said}", fields=[FieldViolation(field, said)])
