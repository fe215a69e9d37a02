"""OpenAI's Responses API: chat and reasoning in items. What it shares with chat completions is theirs (openai.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.cloud_proxy.provider import Exchange, Prepared, Reader
from services.cloud_proxy.wires.openai import OpenAI, packed
from services.cloud_proxy.wires.openai_responses_answer import ResponsesAnswer
from services.cloud_proxy.wires.openai_responses_state import WIRE, restored
from spillway import v1
from spillway.openai.request import (
    CHOICE_MODES,
    EFFORTS,
    EXTENDED,
    ROLES,
    chooses,
    extra_of,
    image_url,
    is_guided,
    is_strict,
    misplaced,
    parsed,
    plain,
    prompt_cache_of,
    tool_results,
    unsupported,
)

ABSENT: Mapping[str, tuple[float, ...]] = {
    **EXTENDED,
    "n": (1,),
    "seed": (),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
}
"""Parameters of sampling that this API has not, with the values that ask for nothing."""
FEWEST_TOKENS = 16
STOPS = ("strings", "token_ids", "include_stop", "ignore_eos")


class OpenAIResponses(OpenAI):
    """The Responses API."""

    def prepare(self, spec: v1.GenerationSpec, model: str) -> Prepared:
        settings = self._settings
        thinks = any(one.name == model and "reasoning_effort" in one.capabilities for one in settings.models)
        body = body_of(
            spec,
            model,
            thinks=thinks or spec.reasoning_effort in EFFORTS,
            summary=settings.reasoning_summary,
            prompt_cache=settings.hints_of_prompt_cache,
        )
        return Prepared(self._versioned("responses"), packed(body))

    def read(self, prepared: Prepared, exchange: Exchange) -> Reader:
        return ResponsesAnswer(self._settings.name, exchange)

    def __repr__(self) -> str:
        return f"<OpenAIResponses {self._settings.name}>"


def body_of(
    spec: v1.GenerationSpec, model: str, *, thinks: bool, summary: str | None, prompt_cache: bool
) -> dict[str, Any]:
    """Return the request's body.

    `thinks`: the model reasons, so its encrypted reasoning is asked for, which any other model refuses, and its
    `summary` where that is set. Nothing is kept at the provider, unless `extra` says `store`. Raises
    ConstraintUnsupported or RequestInvalid naming the field that does not fit.
    """
    for path in _absent(spec):
        raise unsupported(path, "the Responses API has no such parameter")
    body = extra_of(spec)
    body["model"] = model
    instructions, items = _input(spec)
    if instructions:
        body["instructions"] = instructions
    body["input"] = items
    body["stream"] = True
    body.setdefault("store", False)
    body.update(_sampling(spec))
    if include := _include(body.get("include", []), thinks=thinks, logprobs=spec.HasField("logprobs")):
        body["include"] = include
    reasoning = {"effort": EFFORTS.get(spec.reasoning_effort), "summary": summary if thinks else None}
    _lay_over(body, "reasoning", {name: value for name, value in reasoning.items() if value})
    if is_guided(spec):
        _lay_over(body, "text", {"format": _format(spec.constraint)})
    if spec.tools:
        body["tools"] = [_tool(tool, f"spec.tools[{at}]") for at, tool in enumerate(spec.tools)]
    choice = spec.tool_choice
    if choice.WhichOneof("choice") == "name":
        body["tool_choice"] = {"type": "function", "name": choice.name}
    elif choice.mode in CHOICE_MODES and chooses(choice, body):
        body["tool_choice"] = CHOICE_MODES[choice.mode]
    if prompt_cache:
        body.update(prompt_cache_of(spec.prompt_cache))
    return body


def _include(extra: object, *, thinks: bool, logprobs: bool) -> list[str]:
    """What the answer is to hold beside its words, `extra` among it."""
    if not isinstance(extra, list) or not all(isinstance(one, str) for one in extra):
        raise misplaced("spec.extra.include", "is a list of names")
    asked = {"reasoning.encrypted_content": thinks, "message.output_text.logprobs": logprobs}
    return sorted({*extra, *(name for name, wanted in asked.items() if wanted)})


def _absent(spec: v1.GenerationSpec) -> Iterator[str]:
    """The fields of `spec` that ask for what this API has not."""
    if spec.adapter:
        yield "spec.adapter"
    if spec.HasField("tokens"):
        yield "spec.tokens"
    if spec.text.HasField("suffix"):
        yield "spec.text.suffix"
    if spec.HasField("continuation"):
        yield "spec.continuation.token_ids" if spec.continuation.token_ids else "spec.continuation.text"
    for name, off in ABSENT.items():
        if spec.sampling.HasField(name) and getattr(spec.sampling, name) not in off:  # type: ignore[arg-type]
            yield f"spec.sampling.{name}"
    if spec.sampling.logit_bias:
        yield "spec.sampling.logit_bias"
    for name in STOPS:
        if getattr(spec.stop, name):
            yield f"spec.stop.{name}"
    if spec.logprobs.HasField("prompt"):
        yield "spec.logprobs.prompt"
    if is_guided(spec) and (kind := spec.constraint.WhichOneof("constraint")) not in ("json_schema", "json_object"):
        yield f"spec.constraint.{kind}"


def _lay_over(body: dict[str, Any], name: str, told: Mapping[str, Any]) -> None:
    """Put `told` over what `extra` says of `name`."""
    if told:
        known = body.get(name)
        body[name] = {**known, **told} if isinstance(known, dict) else told


def _sampling(spec: v1.GenerationSpec) -> Iterator[tuple[str, Any]]:
    sampling = spec.sampling
    if sampling.HasField("temperature"):
        yield "temperature", plain(sampling.temperature)
    if sampling.HasField("top_p"):
        yield "top_p", plain(sampling.top_p)
    if sampling.HasField("max_tokens"):
        if sampling.max_tokens < FEWEST_TOKENS:
            raise unsupported("spec.sampling.max_tokens", f"this API takes no fewer than {FEWEST_TOKENS}")
        yield "max_output_tokens", sampling.max_tokens
    if spec.logprobs.top:
        yield "top_logprobs", spec.logprobs.top


def _input(spec: v1.GenerationSpec) -> tuple[str, list[dict[str, Any]]]:
    """The instructions, which are what the system says first, and the items of the conversation."""
    if spec.HasField("text"):
        return "", [{"role": "user", "content": spec.text.text}]
    messages = list(enumerate(spec.chat.messages))
    instructions = ""
    if len(messages) > 1 and _is_plain(first := messages[0][1]):
        instructions = first.parts[0].text
        del messages[0]
    return instructions, [item for at, message in messages for item in _items(message, f"spec.chat.messages[{at}]")]


def _is_plain(message: v1.Message) -> bool:
    """Whether the message is one text of the system's, without a name."""
    return (
        message.role == v1.ROLE_SYSTEM and len(message.parts) == 1 and bool(message.parts[0].text) and not message.name
    )


def _items(message: v1.Message, place: str) -> Iterator[dict[str, Any]]:
    if message.role == v1.ROLE_TOOL:
        for result in tool_results(message, place):
            item = {"type": "function_call_output", "call_id": result.tool_call_id, "output": result.content}
            yield {**item, "name": message.name} if message.name else item
        return
    if message.name:
        raise unsupported(f"{place}.name", "the Responses API knows no names of speakers")
    if message.role == v1.ROLE_ASSISTANT:
        yield from _said(message, place)
        return
    content: list[dict[str, Any]] = []
    for at, part in enumerate(message.parts):
        match part.WhichOneof("part"):
            case "text":
                content.append({"type": "input_text", "text": part.text})
            case "image" if message.role == v1.ROLE_USER:
                url = image_url(part.image, f"{place}.parts[{at}]")
                content.append({"type": "input_image", "image_url": url, "detail": "auto"})
            case kind:
                raise _no_place(kind, f"{place}.parts[{at}]", ROLES[message.role])
    one = content[0]["text"] if len(content) == 1 and content[0]["type"] == "input_text" else content
    yield {"role": ROLES[message.role], "content": one}


def _said(message: v1.Message, place: str) -> Iterator[dict[str, Any]]:
    """The items of an answer that was given: as they came, where its state tells."""
    state, where, texts, calls = b"", "", list[str](), list[v1.ToolCall]()
    for at, part in enumerate(message.parts):
        match part.WhichOneof("part"):
            case "text":
                texts.append(part.text)
            case "tool_call":
                calls.append(part.tool_call)
            case "provider_state" if part.provider_state.wire != WIRE:
                continue  # of another wire format: it has no place here
            case "provider_state":
                state, where = part.provider_state.state, f"{place}.parts[{at}].provider_state"
            case kind:
                raise _no_place(kind, f"{place}.parts[{at}]", "assistant")
    try:
        items = restored(state, "".join(texts), calls)
    except (ValueError, RecursionError):
        raise misplaced(where, "is not what came with an answer of this wire format") from None
    yield from items


def _no_place(kind: str | None, place: str, role: str) -> Exception:
    return misplaced(place, f"a {role} message cannot hold a {kind or 'empty part'}")


def _format(constraint: v1.OutputConstraint) -> dict[str, Any]:
    if constraint.WhichOneof("constraint") == "json_object":
        return {"type": "json_object"}
    schema = parsed(constraint.json_schema, "spec.constraint.json_schema")
    return {"type": "json_schema", "name": "answer", "schema": schema, "strict": is_strict(schema)}


def _tool(tool: v1.Tool, place: str) -> dict[str, Any]:
    """`strict` is always told: this API takes its absence for true, and changes the schema until it fits."""
    told: dict[str, Any] = {"type": "function", "name": tool.name, "parameters": None, "strict": False}
    if tool.description:
        told["description"] = tool.description
    if tool.parameters_json_schema:
        schema = parsed(tool.parameters_json_schema, f"{place}.parameters_json_schema")
        told.update(parameters=schema, strict=is_strict(schema))
    return told
