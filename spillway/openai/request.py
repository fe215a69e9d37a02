"""A `GenerationSpec` as OpenAI's chat completions take it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from spillway import v1
from spillway.embedding import Spec
from spillway.errors import ConstraintUnsupported, FieldViolation, RequestInvalid, SchemaInvalid

ROLES = {v1.ROLE_SYSTEM: "system", v1.ROLE_USER: "user", v1.ROLE_ASSISTANT: "assistant"}
EFFORTS = {
    v1.REASONING_EFFORT_NONE: "none",
    v1.REASONING_EFFORT_LOW: "low",
    v1.REASONING_EFFORT_MEDIUM: "medium",
    v1.REASONING_EFFORT_HIGH: "high",
}
CHOICE_MODES = {
    v1.TOOL_CHOICE_MODE_AUTO: "auto",
    v1.TOOL_CHOICE_MODE_NONE: "none",
    v1.TOOL_CHOICE_MODE_REQUIRED: "required",
}
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "n")
"""Parameters of the same name on both sides."""
EXTENDED = {"top_k": (0, -1), "min_p": (0.0,), "repetition_penalty": (1.0,), "min_tokens": (0,)}
"""Parameters that only some compatible servers know, with the values that mean `off`."""
IN_MEMORY_S = 300
"""Seconds for which OpenAI keeps a prompt's beginning at least: 5 to 10 minutes, by its guide to prompt caching."""
STRICT_DEPTH = 10
"""Levels of nesting that strict mode takes."""
LOOSE = frozenset({"allOf", "oneOf", "not", "if", "patternProperties", "dependentRequired", "prefixItems", "default"})
"""Words that strict mode does not take."""
TYPED = frozenset({"type", "$ref", "anyOf"})
"""Words of which every part of a schema has one in strict mode."""


def body_of(
    spec: v1.GenerationSpec,
    model: str,
    *,
    max_tokens_field: str,
    extended_sampling: bool,
    prefill: str | None = None,
    stream_usage: bool = True,
    prompt_cache: bool = False,
) -> dict[str, Any]:
    """Return the request's body.

    `prefill` is the form in which an answer that was begun is continued, None for none; `stream_usage`: the server
    knows `stream_options`; `prompt_cache`: it knows OpenAI's parameters of its prompt cache, which are a hint: else
    they are left out. Of `cache_breakpoint` and `ToolResult.is_error` nothing is told: the server caches by itself, and
    content says that a tool failed.

    Raises ConstraintUnsupported or RequestInvalid naming the field that does not fit.
    """
    if spec.adapter:
        raise unsupported("spec.adapter", "a provider serves no adapters of ours")
    body: dict[str, Any] = extra_of(spec)
    body["model"] = model
    body["messages"] = list(_messages(spec))
    if spec.HasField("continuation"):
        _begin(body["messages"], spec, prefill)
        if prefill == "continue_final_message":
            body.update(continue_final_message=True, add_generation_prompt=False)
    body["stream"] = True
    if stream_usage:
        body["stream_options"] = {"include_usage": True}
    body.update(_sampling(spec.sampling, extended=extended_sampling, max_tokens_field=max_tokens_field))
    body.update(_stop(spec.stop, extended=extended_sampling))
    if is_guided(spec):
        body["response_format"] = _response_format(spec.constraint)
    if spec.tools:
        body["tools"] = [_tool(tool, f"spec.tools[{at}]") for at, tool in enumerate(spec.tools)]
    if chooses(spec.tool_choice, body):
        body.update(_tool_choice(spec.tool_choice))
    if spec.reasoning_effort in EFFORTS:
        body["reasoning_effort"] = EFFORTS[spec.reasoning_effort]
    if spec.logprobs.HasField("prompt"):
        raise unsupported("spec.logprobs.prompt", "chat completions tell nothing of the prompt's tokens")
    if spec.HasField("logprobs"):
        body["logprobs"] = True
        if spec.logprobs.top:
            body["top_logprobs"] = spec.logprobs.top
    if prompt_cache:
        body.update(prompt_cache_of(spec.prompt_cache))
    return body


def is_guided(spec: v1.GenerationSpec) -> bool:
    """Whether the answer is to be held to its constraint from the first token, and not only judged."""
    return spec.HasField("constraint") and spec.constraint.enforcement != v1.ENFORCEMENT_CHECKED


def prompt_cache_of(cache: v1.PromptCache) -> Iterator[tuple[str, Any]]:
    """What OpenAI is told of its prompt cache.

    It keeps a prompt for IN_MEMORY_S by itself; the next longer time is a day. `in_memory` is never asked for: models
    from gpt-5.5 on refuse it.
    """
    if cache.key:
        yield "prompt_cache_key", cache.key
    if cache.ttl_s > IN_MEMORY_S:
        yield "prompt_cache_retention", "24h"


def extra_of(spec: Spec) -> dict[str, Any]:
    """Parameters only the provider knows. What the contract has a field for is set by that field, over these."""
    return {name: _whole(value) for name, value in MessageToDict(spec.extra).items()}


def _whole(value: Any) -> Any:
    """A Struct knows no integers: give back those that were."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value


def _messages(spec: v1.GenerationSpec) -> Iterator[dict[str, Any]]:
    match spec.WhichOneof("input"):
        case "text" if spec.text.HasField("suffix"):
            raise unsupported("spec.text.suffix", "chat completions fill in no middle")
        case "text":
            yield {"role": "user", "content": spec.text.text}
        case "chat":
            for at, message in enumerate(spec.chat.messages):
                yield from _message(message, f"spec.chat.messages[{at}]")
        case _:
            raise unsupported("spec.tokens", "a provider takes text, not token ids of another tokenizer")


def _begin(messages: list[dict[str, Any]], spec: v1.GenerationSpec, prefill: str | None) -> None:
    """Put the beginning of the answer behind `messages`, into the assistant's last one if the caller began it."""
    if spec.continuation.token_ids:
        raise unsupported("spec.continuation.token_ids", "a provider takes text, not token ids of another tokenizer")
    if not spec.continuation.text:
        raise misplaced("spec.continuation.text", "is empty")
    if prefill is None or not spec.HasField("chat"):
        raise unsupported("spec.continuation.text", "this provider does not go on with an answer that was begun")
    if spec.HasField("constraint"):
        raise unsupported("spec.constraint", "a constrained answer cannot be continued, only begun anew")
    last = messages[-1]
    if last["role"] != "assistant" or not isinstance(last.get("content"), str):
        messages.append({"role": "assistant", "content": ""})
    messages[-1]["content"] += spec.continuation.text
    if prefill == "prefix":
        messages[-1]["prefix"] = True


def _message(message: v1.Message, place: str) -> Iterator[dict[str, Any]]:
    told: dict[str, Any]
    if message.role == v1.ROLE_TOOL:
        for result in tool_results(message, place):
            told = {"role": "tool", "tool_call_id": result.tool_call_id, "content": result.content}
            yield {**told, "name": message.name} if message.name else told
        return
    told = {"role": ROLES[message.role]}
    if message.name:
        told["name"] = message.name
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for at, part in enumerate(message.parts):
        kind = part.WhichOneof("part")
        if kind == "text":
            content.append({"type": "text", "text": part.text})
        elif kind == "image" and message.role == v1.ROLE_USER:
            content.append({"type": "image_url", "image_url": {"url": image_url(part.image, f"{place}.parts[{at}]")}})
        elif kind == "provider_state":
            continue  # signed reasoning of another wire format: this one has no place for it
        elif kind == "tool_call" and message.role == v1.ROLE_ASSISTANT:
            called = part.tool_call
            function = {"name": called.name, "arguments": called.arguments}
            calls.append({"id": called.id, "type": "function", "function": function})
        else:
            raise misplaced(f"{place}.parts[{at}]", f"a {told['role']} message cannot hold a {kind or 'empty part'}")
    if len(content) == 1 and content[0]["type"] == "text":
        told["content"] = content[0]["text"]
    else:
        told["content"] = content or (None if calls else "")
    if calls:
        told["tool_calls"] = calls
    yield told


def tool_results(message: v1.Message, place: str) -> Iterator[v1.ToolResult]:
    """Yield what the tools said. Raises RequestInvalid for any other part."""
    for at, part in enumerate(message.parts):
        if part.WhichOneof("part") != "tool_result":
            raise misplaced(f"{place}.parts[{at}]", "a tool message holds tool results alone")
        yield part.tool_result


def image_url(image: v1.Image, place: str) -> str:
    if image.WhichOneof("source") == "url":
        return image.url
    if not image.data or not image.mime_type:
        raise misplaced(f"{place}.image", "needs a url, or data with its mime_type")
    return f"data:{image.mime_type};base64,{base64.b64encode(image.data).decode()}"


def _sampling(sampling: v1.Sampling, *, extended: bool, max_tokens_field: str) -> Iterator[tuple[str, Any]]:
    for name in SAMPLING:
        if sampling.HasField(name):  # type: ignore[arg-type]
            yield name, plain(getattr(sampling, name))
    for name, off in EXTENDED.items():
        if not sampling.HasField(name) or getattr(sampling, name) in off:  # type: ignore[arg-type]
            continue
        if not extended:
            raise unsupported(f"spec.sampling.{name}", "this provider has no such parameter")
        yield name, plain(getattr(sampling, name))
    if sampling.HasField("max_tokens"):
        yield max_tokens_field, sampling.max_tokens
    if sampling.logit_bias:
        yield "logit_bias", {str(token): plain(bias) for token, bias in sorted(sampling.logit_bias.items())}


def plain(value: float) -> float:
    """A 32-bit float as it was written: 0.7, not 0.699999988079071."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _stop(stop: v1.Stop, *, extended: bool) -> Iterator[tuple[str, Any]]:
    if stop.strings:
        yield "stop", list(stop.strings)
    for name, asked, told in (
        ("token_ids", bool(stop.token_ids), ("stop_token_ids", list(stop.token_ids))),
        ("include_stop", stop.include_stop, ("include_stop_str_in_output", True)),
        ("ignore_eos", stop.ignore_eos, ("ignore_eos", True)),
    ):
        if asked and not extended:
            raise unsupported(f"spec.stop.{name}", "this provider has no such parameter")
        if asked:
            yield told


def _response_format(constraint: v1.OutputConstraint) -> dict[str, Any]:
    kind = constraint.WhichOneof("constraint")
    if kind == "json_object":
        return {"type": "json_object"}
    if kind != "json_schema":
        raise unsupported(f"spec.constraint.{kind}", "this provider holds its answers to JSON alone")
    schema = parsed(constraint.json_schema, "spec.constraint.json_schema")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": is_strict(schema)}}


def is_strict(schema: object) -> bool:
    """Whether `schema` is one that OpenAI's strict mode takes: it refuses the request for any other.

    It is an object's and no choice of several, every part of it tells its type, and every object closes itself with
    `additionalProperties: false` and requires all of its properties. For another schema the answer is asked for without
    the guarantee, and the validator judges it.
    """
    return (
        isinstance(schema, Mapping)
        and schema.get("type") == "object"
        and "anyOf" not in schema
        and _is_strict(schema, depth=0)
    )


def _is_strict(schema: object, depth: int) -> bool:
    if not isinstance(schema, Mapping) or depth > STRICT_DEPTH or LOOSE & set(schema) or not TYPED & set(schema):
        return False
    if "$ref" in schema and len(schema) > 1:  # nothing may stand beside it
        return False
    parts: list[object] = []
    kind = schema.get("type")
    if "properties" in schema or "object" in (kind if isinstance(kind, list) else [kind]):
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if schema.get("additionalProperties") is not False or not isinstance(properties, dict):
            return False
        if not isinstance(required, list) or len(required) != len(properties):
            return False
        if any(name not in required for name in properties):
            return False
        parts.extend(properties.values())
    for word in ("$defs", "definitions"):
        parts.extend(schema[word].values() if isinstance(schema.get(word), dict) else ())
    if isinstance(choices := schema.get("anyOf"), list):
        parts.extend(choices)
    if "items" in schema:
        parts.append(schema["items"])
    return all(_is_strict(part, depth + 1) for part in parts)


def _tool(tool: v1.Tool, place: str) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters_json_schema:
        function["parameters"] = parsed(tool.parameters_json_schema, f"{place}.parameters_json_schema")
    return {"type": "function", "function": function}


def chooses(choice: v1.ToolChoice, body: Mapping[str, Any]) -> bool:
    """Whether `choice` is to be told: without tools there is none, and servers refuse to be told so, unless a call is
    asked for."""
    return bool(body.get("tools") or choice.name or choice.mode == v1.TOOL_CHOICE_MODE_REQUIRED)


def _tool_choice(choice: v1.ToolChoice) -> Iterator[tuple[str, Any]]:
    if choice.WhichOneof("choice") == "name":
        yield "tool_choice", {"type": "function", "function": {"name": choice.name}}
    elif choice.mode in CHOICE_MODES:
        yield "tool_choice", CHOICE_MODES[choice.mode]


def parsed(text: str, path: str) -> Any:
    """Return the schema that `text` is; raises SchemaInvalid naming `path`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise SchemaInvalid(f"{path}: is not JSON", fields=[FieldViolation(path, "is not JSON")]) from None


def unsupported(path: str, why: str) -> ConstraintUnsupported:
    return ConstraintUnsupported(f"{path}: {why}", fields=[FieldViolation(path, why)])


def misplaced(path: str, why: str) -> RequestInvalid:
    return RequestInvalid(f"{path}: {why}", fields=[FieldViolation(path, why)])
