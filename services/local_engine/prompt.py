"""The prompt: from the contract's messages to a model's tokens, by the model's own template and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from services.local_engine.support import unsupported
from spillway import v1
from spillway.errors import ContextLengthExceeded, FieldViolation, RequestInvalid

ROLES = {v1.ROLE_SYSTEM: "system", v1.ROLE_USER: "user", v1.ROLE_ASSISTANT: "assistant"}


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def apply_chat_template(self, messages: Any, **options: Any) -> Any: ...


def known(ids: Sequence[int], vocabulary: int, field: str = "spec.tokens.ids") -> list[int]:
    """Return the caller's own token ids; raises RequestInvalid for one that the model does not have."""
    if (highest := max(ids)) >= vocabulary:
        said = f"has the id {highest}; this model's ids end at {vocabulary - 1}"
        raise RequestInvalid(f"{field}: {said}", fields=[FieldViolation(field, said)])
    return list(ids)


def tokens(spec: v1.GenerationSpec, tokenizer: Tokenizer) -> list[int]:
    """Return the text or chat of `spec` as token ids, with the text of an answer that is continued by it alone.

    Raises ConstraintUnsupported for parts this engine cannot read and RequestInvalid where the template refuses.
    """
    begun = "" if spec.continuation.token_ids else spec.continuation.text
    match spec.WhichOneof("input"):
        case "text":
            return tokenizer.encode(spec.text.text + begun)
        case _:
            # The template writes the special tokens itself.
            return tokenizer.encode(rendered(_with(spec.chat, begun), tokenizer), add_special_tokens=False)


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


def rendered(chat: v1.Chat, tokenizer: Tokenizer) -> str:
    """Return `chat` as the model's template writes it; an assistant's last message is left open, to be continued."""
    goes_on = bool(chat.messages) and chat.messages[-1].role == v1.ROLE_ASSISTANT
    try:
        return str(
            tokenizer.apply_chat_template(
                messages(chat), tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on
            )
        )
    except Exception as error:  # templates are programs: what they raise is theirs
        if getattr(tokenizer, "chat_template", None) is None:
            raise unsupported("spec.chat", "this model has no chat template: send text or tokens") from None
        said = f"the model's chat template refuses these messages ({type(error).__name__})"
        raise RequestInvalid(
            f"spec.chat.messages: {said}", fields=[FieldViolation("spec.chat.messages", said)]
        ) from None


def messages(chat: v1.Chat) -> list[dict[str, str]]:
    """Return `chat` as templates take it. Raises ConstraintUnsupported for images and tools."""
    plain = []
    for index, message in enumerate(chat.messages):
        place = f"spec.chat.messages[{index}]"
        role = ROLES.get(message.role)
        if role is None:
            raise unsupported(f"{place}.role", "tools are not supported here")
        named = {"name": message.name} if message.name else {}
        plain.append({"role": role, "content": _content(message.parts, place), **named})
    return plain


def _content(parts: Sequence[v1.Part], place: str) -> str:
    for index, part in enumerate(parts):
        match part.WhichOneof("part"):
            case "image":
                raise unsupported(f"{place}.parts[{index}].image", "this model reads no images")
            case "tool_call" | "tool_result" as kind:
                raise unsupported(f"{place}.parts[{index}].{kind}", "tools are not supported here")
    return "".join(part.text for part in parts)


def room(prompt_tokens: int, context: int, source: str | None) -> int:
    """Return how many tokens an answer may have; raises ContextLengthExceeded where there is no room for one.

    `source` is the field of the spec the prompt came from.
    """
    if prompt_tokens < context:
        return context - prompt_tokens
    raise too_long(f"spec.{source}", prompt_tokens, context, ", the answer's included")


def too_long(field: str, tokens: int, context: int, included: str = "") -> ContextLengthExceeded:
    """Return the error for `field`, whose `tokens` do not fit the context."""
    said = f"has {tokens} tokens; the context has {context}{included}"
    return ContextLengthExceeded(
        f"{field}: {said}",
        fields=[FieldViolation(field, said)],
        metadata={"tokens": str(tokens), "limit": str(context)},
    )
