"""The prompt: from the contract's messages to a model's tokens, by the model's own template and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from services.local_engine import chat_template
from services.local_engine.support import unsupported
from spillway import v1
from spillway.errors import ContextLengthExceeded, FieldViolation, RequestInvalid

ROLES = {v1.ROLE_SYSTEM: "system", v1.ROLE_USER: "user", v1.ROLE_ASSISTANT: "assistant"}


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def apply_chat_template(self, messages: Any, **options: Any) -> Any: ...


def known(ids: Sequence[int], vocabulary: int) -> list[int]:
    """Return the caller's own token ids; raises RequestInvalid for one that the model does not have."""
    if (highest := max(ids)) >= vocabulary:
        raise _invalid("spec.tokens.ids", f"has the id {highest}; this model's ids end at {vocabulary - 1}")
    return list(ids)


def tokens(spec: v1.GenerationSpec, tokenizer: Tokenizer) -> list[int]:
    """Return the text or chat of `spec` as token ids, with the text of an answer that is continued by it alone.

    Raises ConstraintUnsupported for what the engine or the template cannot read and RequestInvalid where it refuses.
    """
    begun = "" if spec.continuation.token_ids else spec.continuation.text
    match spec.WhichOneof("input"):
        case "text":
            require_no_template(spec)
            return tokenizer.encode(spec.text.text + begun)
        case _:
            # The template writes the special tokens itself.
            told = chat_template.arguments(spec, tokenizer)
            return tokenizer.encode(rendered(_with(spec.chat, begun), tokenizer, **told), add_special_tokens=False)


def require_no_template(spec: v1.GenerationSpec) -> None:
    """Raise ConstraintUnsupported for what a model is told by its chat template, where there is no chat."""
    if spec.tools:
        raise unsupported("spec.tools", "go with a chat alone: the model is told of them by its chat template")
    if spec.reasoning_effort not in (v1.REASONING_EFFORT_UNSPECIFIED, v1.REASONING_EFFORT_NONE):
        raise unsupported("spec.reasoning_effort", "goes with a chat alone: the model is told by its chat template")


def is_begun(spec: v1.GenerationSpec) -> bool:
    """Whether the prompt ends within the answer, so that the model goes on with its text."""
    if spec.HasField("continuation") and not spec.continuation.token_ids:
        return True
    messages = spec.chat.messages
    return bool(messages) and messages[-1].role == v1.ROLE_ASSISTANT


def _with(chat: v1.Chat, begun: str) -> v1.Chat:
    """`chat` with the beginning of its answer, if there is one."""
    if not begun:
        return chat
    told = v1.Chat()
    told.CopyFrom(chat)
    if not told.messages or told.messages[-1].role != v1.ROLE_ASSISTANT:
        told.messages.add(role=v1.ROLE_ASSISTANT)
    told.messages[-1].parts.add().text = begun
    return told


def rendered(chat: v1.Chat, tokenizer: Tokenizer, **told: Any) -> str:
    """Return `chat` as the model's template writes it, `told` its other variables.

    An assistant's last message is left open, to be continued.
    """
    goes_on = bool(chat.messages) and chat.messages[-1].role == v1.ROLE_ASSISTANT
    if goes_on and any(part.HasField("tool_call") for part in chat.messages[-1].parts):
        place = f"spec.chat.messages[{len(chat.messages) - 1}]"
        raise _invalid(place, "ends with a tool call: its result is to follow")
    plain = messages(chat, tools=chat_template.of(tokenizer, tools="tools" in told).knows_tools)
    try:
        return str(
            tokenizer.apply_chat_template(
                plain, tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on, **told
            )
        )
    except Exception as error:  # templates are programs: what they raise is theirs
        if getattr(tokenizer, "chat_template", None) is None:
            raise unsupported("spec.chat", "this model has no chat template: send text or tokens") from None
        said = f"the model's chat template refuses these messages ({type(error).__name__})"
        raise _invalid("spec.chat.messages", said) from None


def messages(chat: v1.Chat, *, tools: bool = False) -> list[dict[str, Any]]:
    """Return `chat` as templates take it. Raises ConstraintUnsupported for images, and for tools unless it has them."""
    plain: list[dict[str, Any]] = []
    for index, message in enumerate(chat.messages):
        place = f"spec.chat.messages[{index}]"
        if message.role == v1.ROLE_TOOL:
            if not tools:
                raise unsupported(f"{place}.role", "tools are not supported here")
            plain.extend(_results(message, place))
            continue
        told: dict[str, Any] = {"role": ROLES[message.role], "content": _content(message, place, tools=tools)}
        if message.name:
            told["name"] = message.name
        calls = [_call(part.tool_call) for part in message.parts if part.HasField("tool_call")]
        if calls:
            told["tool_calls"] = calls
        plain.append(told)
    return plain


def _content(message: v1.Message, place: str, *, tools: bool) -> str:
    for index, part in enumerate(message.parts):
        match part.WhichOneof("part"):
            case "image":
                raise unsupported(f"{place}.parts[{index}].image", "this model reads no images")
            case "tool_call" | "tool_result" as kind if not tools:
                raise unsupported(f"{place}.parts[{index}].{kind}", "tools are not supported here")
            case "tool_result":
                raise _invalid(f"{place}.parts[{index}].tool_result", "stands in a message of the role tool alone")
            case "tool_call" if message.role != v1.ROLE_ASSISTANT:
                raise _invalid(f"{place}.parts[{index}].tool_call", "stands in a message of the assistant alone")
    return "".join(part.text for part in message.parts)


def _results(message: v1.Message, place: str) -> Iterator[dict[str, Any]]:
    for index, part in enumerate(message.parts):
        if not part.HasField("tool_result"):
            raise _invalid(f"{place}.parts[{index}]", "a tool message holds tool results alone")
        yield {"role": "tool", "content": part.tool_result.content, "tool_call_id": part.tool_result.tool_call_id}


def _call(call: v1.ToolCall) -> dict[str, Any]:
    """Return `call` as vLLM's own server gives it to templates: arguments are an object, an empty one if they are none.

    A call that was cut off stays in the conversation; refusing it would end the conversation for good.
    """
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _invalid(field: str, said: str) -> RequestInvalid:
    return RequestInvalid(f"{field}: {said}", fields=[FieldViolation(field, said)])


def room(prompt_tokens: int, context: int, source: str | None) -> int:
    """Return how many tokens an answer may have; raises ContextLengthExceeded where there is no room for one.

    `source` is the field of the spec the prompt came from.
    """
    if prompt_tokens < context:
        return context - prompt_tokens
    field = f"spec.{source}"
    said = f"has {prompt_tokens} tokens; the context has {context}, the answer's included"
    raise ContextLengthExceeded(
        f"{field}: {said}",
        fields=[FieldViolation(field, said)],
        metadata={"tokens": str(prompt_tokens), "limit": str(context)},
    )
