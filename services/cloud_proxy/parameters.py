"""Parameters that a provider of chat completions may not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from spillway import v1
from spillway.errors import ConstraintUnsupported, FieldViolation
from spillway.openai.request import is_guided

ParameterName = Literal[
    "frequency_penalty",
    "json_schema",
    "logit_bias",
    "logprobs",
    "message_name",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "reasoning_effort",
    "repetition_penalty",
    "response_format",
    "seed",
    "stop",
    "stop_tokens",
    "tool_choice",
    "tools",
    "top_k",
]
"""As chat completions call them; `message_name`: the speaker's name in a message, `stop_tokens`: what `spec.stop` says
beside strings, `json_schema`: that form of `response_format`."""


def _names_a_speaker(spec: v1.GenerationSpec) -> bool:
    """A tool is known by the call it answers: its name is no speaker's."""
    return any(message.name for message in spec.chat.messages if message.role != v1.ROLE_TOOL)


_ASKED: Mapping[ParameterName, tuple[str, Callable[[v1.GenerationSpec], object]]] = {
    "frequency_penalty": ("spec.sampling.frequency_penalty", lambda spec: spec.sampling.frequency_penalty),
    "json_schema": (
        "spec.constraint.json_schema",
        lambda spec: is_guided(spec) and spec.constraint.HasField("json_schema"),
    ),
    "logit_bias": ("spec.sampling.logit_bias", lambda spec: spec.sampling.logit_bias),
    "logprobs": ("spec.logprobs", lambda spec: spec.HasField("logprobs")),
    "message_name": ("spec.chat.messages", _names_a_speaker),
    "min_p": ("spec.sampling.min_p", lambda spec: spec.sampling.min_p),
    "min_tokens": ("spec.sampling.min_tokens", lambda spec: spec.sampling.min_tokens),
    "n": ("spec.sampling.n", lambda spec: spec.sampling.n > 1),
    "presence_penalty": ("spec.sampling.presence_penalty", lambda spec: spec.sampling.presence_penalty),
    "reasoning_effort": ("spec.reasoning_effort", lambda spec: spec.reasoning_effort),
    "repetition_penalty": (
        "spec.sampling.repetition_penalty",
        lambda spec: spec.sampling.repetition_penalty not in (0, 1),
    ),
    "response_format": ("spec.constraint", is_guided),
    "seed": ("spec.sampling.seed", lambda spec: spec.sampling.HasField("seed")),
    "stop": ("spec.stop.strings", lambda spec: spec.stop.strings),
    "stop_tokens": (
        "spec.stop",
        lambda spec: spec.stop.token_ids or spec.stop.include_stop or spec.stop.ignore_eos,
    ),
    "tool_choice": ("spec.tool_choice", lambda spec: spec.tool_choice.name or spec.tool_choice.mode),
    "tools": ("spec.tools", lambda spec: spec.tools),
    "top_k": ("spec.sampling.top_k", lambda spec: spec.sampling.top_k > 0),
}
"""The field that asks for a parameter, and whether `spec` does."""


def require_none(spec: v1.GenerationSpec, lacking: Iterable[ParameterName]) -> None:
    """Raise ConstraintUnsupported naming every field of `spec` that asks for a parameter of `lacking`."""
    fields = [path for path, asked in (_ASKED[name] for name in sorted(lacking)) if asked(spec)]
    if fields:
        what = "this provider has no such parameter"
        said = "; ".join(f"{field}: {what}" for field in fields)
        raise ConstraintUnsupported(said, fields=[FieldViolation(field, what) for field in fields])
