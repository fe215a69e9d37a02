"""How an answer is decoded: the contract's sampling, stops and constraint, as arguments of vLLM's SamplingParams.

Nothing here imports vLLM: the names on the right are its field names, held to it by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from services.local_engine.support import invalid, unsupported
from spillway import v1
from spillway.errors import FieldViolation, RequestInvalid, SchemaInvalid, SpillwayError

GREEDY_BELOW = 1e-5
"""vLLM's own bound: a temperature below it is greedy."""

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "min_tokens",
    "n",
)
"""Fields of the contract that vLLM calls the same."""


@dataclass(frozen=True, slots=True)
class Guide:
    """What the decoder is held to: a field of vLLM's StructuredOutputsParams and its value."""

    kind: str
    value: str | bool | list[str]
    field: str
    """Path in the request, for errors."""

    def refused(self, why: str, *, sound: bool) -> SpillwayError:
        """Return the error for a guide the engine does not accept, though it may be `sound`: beyond the engine only."""
        if sound or self.kind == "structural_tag":  # made here, of what the caller's fields say
            return unsupported(self.field, why[:300])
        kind = SchemaInvalid if self.kind == "json" else RequestInvalid
        return kind(f"{self.field}: {why[:300]}", fields=[FieldViolation(self.field, why[:300])])


@dataclass(frozen=True, slots=True)
class Decoding:
    """`arguments` of SamplingParams, and the guide if there is one."""

    arguments: Mapping[str, Any]
    guide: Guide | None


def decoding(
    spec: v1.GenerationSpec,
    *,
    room: int,
    max_tokens: int | None,
    defaults: Mapping[str, float | int],
    ends: Collection[int] = (),
) -> Decoding:
    """Return how `spec` is decoded.

    `room` is what the context leaves for the answer, `max_tokens` the setting for answers that name none, `defaults`
    what the model's own generation configuration says, `ends` tokens that end this answer as its own end does. Raises
    RequestInvalid or ConstraintUnsupported naming the field.
    """
    arguments: dict[str, Any] = dict(defaults)
    sampling, stop = spec.sampling, spec.stop
    for name in SAMPLING:
        if sampling.HasField(name):  # type: ignore[arg-type]
            arguments[name] = getattr(sampling, name)
    asked = sampling.max_tokens if sampling.HasField("max_tokens") else max_tokens or arguments.get("max_tokens")
    arguments["max_tokens"] = min(asked or room, room)
    if sampling.logit_bias:
        arguments["logit_bias"] = dict(sampling.logit_bias)
    if stop.strings:
        arguments["stop"] = list(stop.strings)
    if stop.token_ids or (ends and not stop.ignore_eos):
        arguments["stop_token_ids"] = [*stop.token_ids, *(() if stop.ignore_eos else sorted(ends))]
    if stop.include_stop:
        arguments["include_stop_str_in_output"] = True
    if stop.ignore_eos:
        arguments["ignore_eos"] = True
    if spec.HasField("logprobs"):
        arguments["logprobs"] = spec.logprobs.top
        if spec.logprobs.HasField("prompt"):
            arguments["prompt_logprobs"] = spec.logprobs.prompt
    arguments |= _extra(spec)
    _agree(arguments)
    return Decoding(arguments, guide(spec))


def _agree(arguments: Mapping[str, Any]) -> None:
    if arguments.get("n", 1) > 1 and arguments.get("temperature", 1.0) < GREEDY_BELOW:
        raise invalid("spec.sampling.n", "must be 1 with temperature 0: all choices would be the same")
    if arguments.get("min_tokens", 0) > arguments["max_tokens"]:
        raise invalid("spec.sampling.min_tokens", f"is more than the {arguments['max_tokens']} tokens there may be")


def guide(spec: v1.GenerationSpec) -> Guide | None:
    """Return what the decoder is to be held to, or None: an answer that is only checked is decoded freely."""
    constraint = spec.constraint
    if not spec.HasField("constraint") or constraint.enforcement == v1.ENFORCEMENT_CHECKED:
        return None
    match constraint.WhichOneof("constraint"):
        case "json_schema":
            # `true` allows any value; vLLM wants that said as an object.
            schema = "{}" if constraint.json_schema.strip() == "true" else constraint.json_schema
            return Guide("json", schema, "spec.constraint.json_schema")
        case "regex":
            return Guide("regex", constraint.regex, "spec.constraint.regex")
        case "grammar":
            if not constraint.grammar.strip():
                raise invalid("spec.constraint.grammar", "is empty")
            return Guide("grammar", constraint.grammar, "spec.constraint.grammar")
        case "choices":
            return Guide("choice", list(constraint.choices.values), "spec.constraint.choices")
        case "json_object":
            if not constraint.json_object:
                raise invalid("spec.constraint.json_object", "must be true: leave the constraint out for free text")
            return Guide("json_object", True, "spec.constraint.json_object")
    return None


def _extra(spec: v1.GenerationSpec) -> dict[str, Any]:
    if not spec.HasField("extra"):
        return {}
    taken = {}
    for name, value in json_format.MessageToDict(spec.extra).items():
        field = f"spec.extra.{name[:50]}"
        take = EXTRA.get(name) if name != PARALLEL else _flag
        if take is None:
            raise unsupported(field, f"is not known here; known: {', '.join((*EXTRA, PARALLEL))}")
        try:
            taken[name] = take(value)
        except (TypeError, ValueError):
            raise invalid(field, "has the wrong type") from None
    taken.pop(PARALLEL, None)  # is looked at with the tools
    return taken


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise TypeError
    return value


def _ids(value: object) -> list[int]:
    if not isinstance(value, list):
        raise TypeError
    return [_id(one) for one in value]


def _id(value: object) -> int:
    if not isinstance(value, float | int) or isinstance(value, bool) or value != int(value):
        raise TypeError
    return int(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


EXTRA: Mapping[str, Callable[[object], Any]] = {
    "bad_words": _texts,
    "allowed_token_ids": _ids,
    "skip_special_tokens": _flag,
    "spaces_between_special_tokens": _flag,
}
"""Parameters of vLLM's that the contract has no field for, by vLLM's names."""

PARALLEL = "parallel_tool_calls"
"""OpenAI's name of whether an answer may hold several calls; absent: it may."""

FIELDS = {
    **{name: f"spec.sampling.{name}" for name in (*SAMPLING, "max_tokens", "logit_bias")},
    **{name: f"spec.extra.{name}" for name in EXTRA},
    "stop": "spec.stop.strings",
    "stop_token_ids": "spec.stop.token_ids",
    "logprobs": "spec.logprobs.top",
    "prompt_logprobs": "spec.logprobs.prompt",
    "prompt_token_ids": "spec.tokens.ids",
}
"""vLLM's name of a parameter -> its path in the contract."""
SAMPLING_FIELDS = tuple(name for name in FIELDS if name != "prompt_token_ids")
"""Fields of vLLM's SamplingParams that a request may set."""


def refused(parameter: str | None, why: str, decoding: Decoding, *, sound: bool = False) -> SpillwayError:
    """Return the error for a request that vLLM's own checks refuse, naming the field where it can be told.

    `sound` says that the guide, if there is one, is well formed.
    """
    if parameter in FIELDS:
        return invalid(FIELDS[parameter], why[:300])
    if decoding.guide is not None:
        return decoding.guide.refused(why, sound=sound)
    return invalid("spec", why[:300])
