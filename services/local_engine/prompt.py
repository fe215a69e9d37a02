"""The prompt: from the contract's messages to a model's tokens, by the model's own template and tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.local_engine.fill_in_the_middle import Frame, plain
from services.local_engine.support import unsupported
from spillway import v1
from spillway.errors import ContextLengthExceeded, FieldViolation, RequestInvalid

MARK = "\N{WHITE SMILING FACE}"
"""What CodeLlama's and Mistral's own code put before a suffix, and take away again."""
MAX_TOLD = 2**15
"""Most log probabilities that are told of a prompt: half a MiB, some MiB with long tokens, and a message has 16.

vLLM makes them on the event loop, all at once: in these many it is busy for a second, and no stream goes on.
"""
MAX_LOGITS_BYTES = 2 * 2**30
ROLES = {v1.ROLE_SYSTEM: "system", v1.ROLE_USER: "user", v1.ROLE_ASSISTANT: "assistant"}


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def apply_chat_template(self, messages: Any, **options: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class ImageForm:
    """How the model's template takes images."""

    placeholder: Callable[[int], str] | None
    """Returns what stands for the nth image, from 1, in a message's text; None: the template takes parts and knows."""
    reserved: frozenset[str] = frozenset()
    """What the caller's text may not hold beside images: the image would be put there."""


def known(ids: Sequence[int], vocabulary: int, field: str = "spec.tokens.ids") -> list[int]:
    """Return the caller's own token ids; raises RequestInvalid for one that the model does not have."""
    if (highest := max(ids)) >= vocabulary:
        said = f"has the id {highest}; this model's ids end at {vocabulary - 1}"
        raise RequestInvalid(f"{field}: {said}", fields=[FieldViolation(field, said)])
    return list(ids)


def tokens(
    spec: v1.GenerationSpec, tokenizer: Tokenizer, frame: Frame | None = None, form: ImageForm | None = None
) -> list[int]:
    """Return the text or chat of `spec` as token ids, with the text of an answer that is continued by it alone.

    `frame` is what stands around a text that has a suffix. Each image is what stands for one, not yet the tokens that
    it fills; `form` None is a model that reads none. Raises ConstraintUnsupported for parts this engine cannot read and
    RequestInvalid where the template refuses.
    """
    begun = "" if spec.continuation.token_ids else spec.continuation.text
    match spec.WhichOneof("input"):
        case "text" if spec.text.HasField("suffix"):
            return _framed(spec.text, begun, tokenizer, frame)
        case "text":
            return tokenizer.encode(spec.text.text + begun)
        case _:
            # The template writes the special tokens itself.
            return tokenizer.encode(rendered(_with(spec.chat, begun), tokenizer, form), add_special_tokens=False)


def _framed(text: v1.TextPrompt, begun: str, tokenizer: Any, frame: Frame | None) -> list[int]:
    if frame is None:
        raise unsupported("spec.text.suffix", "this model is not asked to fill in the middle")
    # Mistral's own tokenizers never read special tokens in a text, and have no such option.
    options = {"split_special_tokens": True} if hasattr(tokenizer, "split_special_tokens") else {}

    def encode(said: str) -> list[int]:
        ids: list[int] = tokenizer.encode(said, add_special_tokens=False, **options)
        return ids

    mark = encode(MARK)

    def within(said: str) -> list[int]:
        """SentencePiece puts a space before a text: what stands within one is encoded behind a mark."""
        marked = encode(MARK + said)
        return marked[len(mark) :] if marked[: len(mark)] == mark else encode(said)

    spaced = encode("a") != within("a")
    inner = within if spaced else encode
    begins = [first for first in tokenizer.encode("")[:1] if first == getattr(tokenizer, "bos_token_id", None)]
    before = plain(text.text, frame.texts, encode, inner)
    return [*begins, *frame.around(before, plain(text.suffix, frame.texts, inner, inner)), *inner(begun)]


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


def rendered(chat: v1.Chat, tokenizer: Tokenizer, form: ImageForm | None = None) -> str:
    """Return `chat` as the model's template writes it; an assistant's last message is left open, to be continued."""
    goes_on = bool(chat.messages) and chat.messages[-1].role == v1.ROLE_ASSISTANT
    told = messages(chat, form)
    try:
        return str(
            tokenizer.apply_chat_template(
                told, tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on
            )
        )
    except Exception as error:  # templates are programs: what they raise is theirs
        if getattr(tokenizer, "chat_template", None) is None:
            raise unsupported("spec.chat", "this model has no chat template: send text or tokens") from None
        said = f"the model's chat template refuses these messages ({type(error).__name__})"
        raise RequestInvalid(
            f"spec.chat.messages: {said}", fields=[FieldViolation("spec.chat.messages", said)]
        ) from None


def messages(chat: v1.Chat, form: ImageForm | None = None) -> list[dict[str, Any]]:
    """Return `chat` as templates take it.

    Raises ConstraintUnsupported for tools, and for images where there is no `form`; RequestInvalid for reserved text.
    """
    plain, images = [], 0
    reserved = form.reserved if form is not None and has_images(chat) else frozenset()
    for index, message in enumerate(chat.messages):
        place = f"spec.chat.messages[{index}]"
        role = ROLES.get(message.role)
        if role is None:
            raise unsupported(f"{place}.role", "tools are not supported here")
        named = {"name": message.name} if message.name else {}
        _require_readable(message.parts, place, form, reserved)
        content: str | list[dict[str, str]] = "".join(part.text for part in message.parts)
        if form is not None and form.placeholder is None:
            content = [_part(part) for part in message.parts]
        elif form is not None and form.placeholder is not None:
            content, images = _marked(message.parts, form.placeholder, images)
        plain.append({"role": role, "content": content, **named})
    return plain


def has_images(chat: v1.Chat) -> bool:
    """Whether there is an image in `chat`."""
    return any(part.HasField("image") for message in chat.messages for part in message.parts)


def _require_readable(parts: Sequence[v1.Part], place: str, form: ImageForm | None, reserved: frozenset[str]) -> None:
    for index, part in enumerate(parts):
        field = f"{place}.parts[{index}]"
        match part.WhichOneof("part"):
            case "image" if form is None:
                raise unsupported(f"{field}.image", "this model reads no images")
            case "tool_call" | "tool_result" as kind:
                raise unsupported(f"{field}.{kind}", "tools are not supported here")
            case "text" if found := next((text for text in reserved if text in part.text), None):
                said = f"holds {found!r}, which stands for an image here"
                raise RequestInvalid(f"{field}.text: {said}", fields=[FieldViolation(f"{field}.text", said)])


def _part(part: v1.Part) -> dict[str, str]:
    return {"type": "image"} if part.HasField("image") else {"type": "text", "text": part.text}


def _marked(parts: Sequence[v1.Part], placeholder: Callable[[int], str], images: int) -> tuple[str, int]:
    """Return the text with its images marked, one a line, and how many images there have been by now."""
    lines = [""]
    for part in parts:
        if part.HasField("image"):
            images += 1
            lines += [placeholder(images), ""]
        else:
            lines[-1] += part.text
    return "\n".join(filter(None, lines)), images


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


def tellable(tokens: int, top: int, *, at_once: int, vocabulary: int) -> None:
    """Raise RequestInvalid where the log probabilities of a prompt of so many tokens are too much to tell or compute.

    `top` alternatives are told beside each token. Up to `at_once` tokens have their logits in memory together, which
    nobody has set aside: an engine that ran out of it would be gone, for all its callers.
    """
    said = ""
    if (told := tokens * (1 + top)) > MAX_TOLD:
        said = f"of {tokens} tokens with {top} alternatives each makes {told} log probabilities; at most {MAX_TOLD}"
    elif (needed := min(tokens, at_once) * vocabulary * 8) > MAX_LOGITS_BYTES:  # logits and their logarithms, float32
        said = (
            f"of {tokens} tokens takes {needed / 2**30:.1f} GiB at once, and at most {MAX_LOGITS_BYTES / 2**30:g}: "
            "shorten the prompt, or lower local_engine.vllm.max_num_batched_tokens"
        )
    if said:
        raise RequestInvalid(f"spec.logprobs.prompt: {said}", fields=[FieldViolation("spec.logprobs.prompt", said)])
