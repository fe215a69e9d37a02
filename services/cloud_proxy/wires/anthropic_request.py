"""A `GenerationSpec` as Anthropic's Messages API takes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from services.cloud_proxy.wires.anthropic_chat import Conversation, read
from services.cloud_proxy.wires.anthropic_models import Traits
from services.cloud_proxy.wires.anthropic_schema import adapted
from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid, SchemaInvalid
from spillway.openai.request import extra_of, is_guided, parsed

BUDGETS = {
    v1.REASONING_EFFORT_LOW: 2_048,
    v1.REASONING_EFFORT_MEDIUM: 8_192,
    v1.REASONING_EFFORT_HIGH: 16_384,
}
"""Tokens to think within, ours for lack of a rule of the provider's; the room an answer gets for its thoughts."""
EFFORTS = {v1.REASONING_EFFORT_LOW: "low", v1.REASONING_EFFORT_MEDIUM: "medium", v1.REASONING_EFFORT_HIGH: "high"}
LEAST_BUDGET = 1_024
LEAST_TOP_P = 0.95
"""With thinking, by the provider's rules."""
MAX_MARKS = 4
CHOICE_MODES = {
    v1.TOOL_CHOICE_MODE_AUTO: "auto",
    v1.TOOL_CHOICE_MODE_NONE: "none",
    v1.TOOL_CHOICE_MODE_REQUIRED: "any",
}
UNKNOWN = {
    "min_p": (0.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "seed": (),
    "min_tokens": (0,),
    "n": (1,),
}
"""Parameters the provider does not have, with the values that mean `off`."""
BETA = "anthropic-beta"


class Asked(NamedTuple):
    """A request: its body, and the headers that only it is sent with."""

    body: dict[str, Any]
    headers: dict[str, str]


def request_of(
    spec: v1.GenerationSpec, model: str, *, traits: Traits, prefill: bool, default_answer_tokens: int
) -> Asked:
    """Return the request. `prefill`: the model goes on with an answer that was begun.

    The provider asks for a longest answer: where the caller sets none it is `default_answer_tokens`, and what the
    thinking may take beside it. Raises ConstraintUnsupported or RequestInvalid naming the field that does not fit.
    """
    _require_known(spec)
    body = extra_of(spec)
    headers = _beta(body.pop(BETA, None))
    found = read(spec)
    begun = _begin(found, spec, prefill)
    thinking = _thinking(spec, traits, found, begun)
    room = _room(spec, traits, thinking)
    body["model"] = model
    body["stream"] = True
    if spec.sampling.HasField("max_tokens"):
        body["max_tokens"] = spec.sampling.max_tokens
    elif not isinstance(body.get("max_tokens"), int):
        body["max_tokens"] = default_answer_tokens + room
    if thinking is not None:
        body["thinking"] = thinking
        if thinking["type"] == "enabled":
            thinking["budget_tokens"] = _budget(body["max_tokens"], room, default_answer_tokens)
    _mark(found, spec)
    if found.system:
        body["system"] = found.system
    body["messages"] = found.turns
    body.update(_sampling(spec.sampling, traits, thinks=room > 0))
    if spec.stop.strings:
        body["stop_sequences"] = list(spec.stop.strings)
    if spec.tools:
        tools = [_tool(tool, f"spec.tools[{at}]") for at, tool in enumerate(spec.tools)]
        body["tools"] = [*tools, *_listed(body.get("tools"))]
    if choice := _tool_choice(spec.tool_choice, tools=bool(body.get("tools"))):
        body["tool_choice"] = {**choice, **_parallel(body.get("tool_choice"))}
    if config := dict(_output_config(spec, thinking)):
        known = body.get("output_config")
        body["output_config"] = {**known, **config} if isinstance(known, dict) else config
    return Asked(body, headers)


def _require_known(spec: v1.GenerationSpec) -> None:
    """Raise ConstraintUnsupported for the first field that this provider has nothing for."""
    if spec.adapter:
        raise ConstraintUnsupported.at("spec.adapter", "a provider serves no adapters of ours")
    for name, off in UNKNOWN.items():
        if spec.sampling.HasField(name) and getattr(spec.sampling, name) not in off:  # type: ignore[arg-type]
            raise _missing(f"spec.sampling.{name}")
    if spec.sampling.logit_bias:
        raise _missing("spec.sampling.logit_bias")
    if spec.HasField("logprobs"):
        raise _missing("spec.logprobs")
    for name in ("token_ids", "include_stop", "ignore_eos"):
        if getattr(spec.stop, name):
            raise _missing(f"spec.stop.{name}")
    for at, text in enumerate(spec.stop.strings):
        if text.isspace():
            raise ConstraintUnsupported.at(f"spec.stop.strings[{at}]", "this provider stops at no white space alone")


def _missing(path: str) -> ConstraintUnsupported:
    return ConstraintUnsupported.at(path, "this provider has no such parameter")


def _beta(told: object) -> dict[str, str]:
    """The header of `extra.anthropic-beta`: a name, or several with commas between them."""
    if told is None:
        return {}
    if not isinstance(told, str) or not told.isascii() or not told.isprintable():
        raise RequestInvalid.at(f"spec.extra.{BETA}", "must be a line of ASCII")
    return {BETA: told}


def _begin(found: Conversation, spec: v1.GenerationSpec, prefill: bool) -> bool:
    """Put the beginning of the answer behind the conversation. Return whether it ends with words of the assistant's."""
    path = f"spec.chat.messages[{len(spec.chat.messages) - 1}]"
    if spec.HasField("continuation"):
        path = "spec.continuation.text"
        if spec.continuation.token_ids:
            raise ConstraintUnsupported.at("spec.continuation.token_ids", "a provider takes text, not token ids")
        if not spec.continuation.text:
            raise RequestInvalid.at(path, "is empty")
        if spec.HasField("constraint"):
            raise ConstraintUnsupported.at(
                "spec.constraint", "a constrained answer cannot be continued, only begun anew"
            )
        turn = found.turn("assistant")
        if not turn or turn[-1]["type"] != "text":
            turn.append({"type": "text", "text": ""})
        turn[-1]["text"] += spec.continuation.text
    last = found.turns[-1]
    if last["role"] != "assistant":
        return False
    if not prefill:
        raise ConstraintUnsupported.at(path, "this model does not go on with an answer that was begun")
    if last["content"][-1].get("text", "x")[-1].isspace():
        raise ConstraintUnsupported.at(path, "this provider goes on with no text that ends in white space")
    return True


def _thinking(spec: v1.GenerationSpec, traits: Traits, found: Conversation, begun: bool) -> dict[str, Any] | None:
    """How the model is told to think, None for as it does of itself; the budget is still to come."""
    if spec.reasoning_effort == v1.REASONING_EFFORT_NONE:
        if traits.thinking == "always":
            raise ConstraintUnsupported.at("spec.reasoning_effort", "this model cannot be told not to think")
        return {"type": "disabled"}
    if spec.reasoning_effort not in BUDGETS:
        return None
    if begun:  # the thinking was done before the answer began, and the provider refuses both at once
        return {"type": "disabled"}
    if traits.thinking != "budget":
        return {"type": "adaptive", "display": "summarized"}  # newer models show none of it unless asked
    if spec.tool_choice.name or spec.tool_choice.mode == v1.TOOL_CHOICE_MODE_REQUIRED:
        raise ConstraintUnsupported.at("spec.tool_choice", "this model calls no tool that it must while it thinks")
    if not found.thinks_on():
        # The tools were called by an answer whose signed thoughts are not here: another model's, or one that did not
        # think. The provider refuses to think on about such a turn, and takes it without thinking.
        return {"type": "disabled"}
    return {"type": "enabled"}


def _room(spec: v1.GenerationSpec, traits: Traits, thinking: dict[str, Any] | None) -> int:
    """Tokens that the thinking may take of the answer's."""
    if thinking is None:
        return BUDGETS[v1.REASONING_EFFORT_HIGH] if traits.thinking == "always" else 0
    return 0 if thinking["type"] == "disabled" else BUDGETS[spec.reasoning_effort]


def _budget(max_tokens: int, room: int, answer: int) -> int:
    """Tokens to think within: `room`, as far as it leaves `answer` tokens to be said, or half of `max_tokens`."""
    if max_tokens <= LEAST_BUDGET:
        why = f"must be above {LEAST_BUDGET}, the least that this model thinks within"
        raise ConstraintUnsupported.at("spec.sampling.max_tokens", why)
    return max(LEAST_BUDGET, min(room, max(max_tokens // 2, max_tokens - answer)))


def _mark(found: Conversation, spec: v1.GenerationSpec) -> None:
    """Mark up to where the prompt is to be kept: at the last MAX_MARKS breakpoints; each holds those before it.

    Where the caller wants a cache and marks nothing, all of the prompt is kept: the next turn begins with it.
    """
    if not found.marked and spec.HasField("prompt_cache"):
        found.marked += [turn["content"][-1] for turn in found.turns if turn["role"] == "user"][-1:]
    ttl_s = spec.prompt_cache.ttl_s if spec.prompt_cache.HasField("ttl_s") else None
    if ttl_s is not None and ttl_s > 3600:
        raise ConstraintUnsupported.at("spec.prompt_cache.ttl_s", "this provider keeps nothing for longer than 3600 s")
    for block in found.marked[-MAX_MARKS:]:
        block["cache_control"] = {"type": "ephemeral"}
        if ttl_s is not None:
            block["cache_control"]["ttl"] = "5m" if ttl_s <= 300 else "1h"


def _sampling(sampling: v1.Sampling, traits: Traits, *, thinks: bool) -> Iterator[tuple[str, Any]]:
    """What differs from the defaults: newer models, and all that think, take nothing else."""
    if sampling.HasField("temperature") and sampling.temperature > 1:
        raise ConstraintUnsupported.at("spec.sampling.temperature", "this provider takes at most 1")
    for name, off in (("temperature", (1.0,)), ("top_p", (1.0,)), ("top_k", (0, -1))):
        value = getattr(sampling, name)
        if not sampling.HasField(name) or value in off:  # type: ignore[arg-type]
            continue
        if not traits.sampling:
            raise ConstraintUnsupported.at(f"spec.sampling.{name}", "this model takes no other than the default")
        if thinks and not (name == "top_p" and value >= LEAST_TOP_P - 1e-6):
            raise ConstraintUnsupported.at(f"spec.sampling.{name}", "cannot be set while this model thinks")
        # A 32-bit float as it was written: 0.7, not 0.699999988079071.
        yield name, float(f"{value:.7g}") if isinstance(value, float) else value


def _tool(tool: v1.Tool, place: str) -> dict[str, Any]:
    told: dict[str, Any] = {"name": tool.name}
    if tool.description:
        told["description"] = tool.description
    path = f"{place}.parameters_json_schema"
    schema = parsed(tool.parameters_json_schema or "{}", path)
    if not isinstance(schema, dict):
        raise SchemaInvalid.at(path, "is not the schema of an object")
    told["input_schema"] = {"type": "object", **schema}
    return told


def _listed(told: object) -> list[Any]:
    """The tools of `extra`: those that the provider runs itself."""
    return told if isinstance(told, list) else []


def _tool_choice(choice: v1.ToolChoice, *, tools: bool) -> dict[str, str] | None:
    if choice.name:
        return {"type": "tool", "name": choice.name}
    # Without tools there is nothing to choose, and the provider refuses to be told so.
    if choice.mode not in CHOICE_MODES or (not tools and choice.mode != v1.TOOL_CHOICE_MODE_REQUIRED):
        return None
    return {"type": CHOICE_MODES[choice.mode]}


def _parallel(told: object) -> dict[str, Any]:
    """What `extra.tool_choice` says beside the choice itself."""
    name = "disable_parallel_tool_use"
    return {name: told[name]} if isinstance(told, dict) and name in told else {}


def _output_config(spec: v1.GenerationSpec, thinking: dict[str, Any] | None) -> Iterator[tuple[str, Any]]:
    if thinking is not None and thinking["type"] == "adaptive":
        yield "effort", EFFORTS[spec.reasoning_effort]
    if not is_guided(spec):
        return
    kind = spec.constraint.WhichOneof("constraint")
    if kind != "json_schema":
        why = "any JSON object cannot be asked for here: say its schema" if kind == "json_object" else "not here"
        raise ConstraintUnsupported.at(
            f"spec.constraint.{kind}", f"{why}; this provider holds answers to schemas alone"
        )
    schema = adapted(parsed(spec.constraint.json_schema, "spec.constraint.json_schema"))
    yield "format", {"type": "json_schema", "schema": schema}
