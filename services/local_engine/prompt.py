"""The prompt: from the contract's messages to a model's tokens, by the model's own template and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from services.local_engine import chat_messages, chat_template
from services.local_engine.chat_messages import ImageForm
from services.local_engine.fill_in_the_middle import Encode, Frame, plain
from services.local_engine.special_tokens import SpecialTokens
from services.local_engine.support import invalid, unsupported
from spillway import v1
from spillway.errors import ContextLengthExceeded, FieldViolation, RequestInvalid

MARK = "\N{WHITE SMILING FACE}"
"""What CodeLlama's and Mistral's own code put before a suffix, and take away again."""
MAX_TOLD = 2**15
"""Most log probabilities that are told of a prompt: half a MiB, some MiB with long tokens, and a message has 16.

vLLM makes them on the event loop, all at once: in these many it is busy for a second, and no stream goes on.
"""
MAX_LOGITS_BYTES = 2 * 2**30


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def apply_chat_template(self, messages: Any, **options: Any) -> Any: ...


def known(ids: Sequence[int], vocabulary: int, field: str = "spec.tokens.ids") -> list[int]:
    """Return the caller's own token ids; raises RequestInvalid for one that the model does not have."""
    if (highest := max(ids)) >= vocabulary:
        raise invalid(field, f"has the id {highest}; this model's ids end at {vocabulary - 1}")
    return list(ids)


def tokens(
    spec: v1.GenerationSpec,
    tokenizer: Tokenizer,
    frame: Frame | None = None,
    form: ImageForm | None = None,
    special: SpecialTokens | None = None,
) -> list[int]:
    """Return the text or chat of `spec` as token ids, with the text of an answer that is continued by it alone.

    `frame` is what stands around a text that has a suffix. Each image is what stands for one, not yet the tokens that
    it fills; `form` None is a model that reads none. `special` are tokens that a chat's text is not read for. Raises
    ConstraintUnsupported for what the engine or the template cannot read and RequestInvalid where it refuses.
    """
    begun = "" if spec.continuation.token_ids else spec.continuation.text
    match spec.WhichOneof("input"):
        case "text" if spec.text.HasField("suffix"):
            require_no_template(spec)
            return _framed(spec.text, begun, tokenizer, frame)
        case "text":
            require_no_template(spec)
            return tokenizer.encode(spec.text.text + begun)
        case _:
            told = chat_template.arguments(spec, tokenizer)
            if form is not None and chat_messages.has_images(spec.chat):
                chat_messages.require_unreserved(begun, "spec.continuation.text", form.reserved)
            first, *rest = rendered(_with(spec.chat, begun), tokenizer, form, special, **told)

            def encode(said: str) -> list[int]:
                # The template writes the special tokens itself.
                return tokenizer.encode(said, add_special_tokens=False)

            ids = encode(first)
            if rest:
                inner = _within(encode)
                ids += [one for piece in rest for one in inner(piece)]
            return ids


def _framed(text: v1.TextPrompt, begun: str, tokenizer: Any, frame: Frame | None) -> list[int]:
    if frame is None:
        raise unsupported("spec.text.suffix", "this model is not asked to fill in the middle")
    # Mistral's own tokenizers never read special tokens in a text, and have no such option.
    options = {"split_special_tokens": True} if hasattr(tokenizer, "split_special_tokens") else {}

    def encode(said: str) -> list[int]:
        ids: list[int] = tokenizer.encode(said, add_special_tokens=False, **options)
        return ids

    inner = _within(encode)
    begins = [first for first in tokenizer.encode("")[:1] if first == getattr(tokenizer, "bos_token_id", None)]
    before = plain(text.text, frame.texts, encode, inner)
    return [*begins, *frame.around(before, plain(text.suffix, frame.texts, inner, inner)), *inner(begun)]


def _within(encode: Encode) -> Encode:
    """Return what encodes a text that stands within another: SentencePiece puts a space before one that begins."""
    mark = encode(MARK)

    def within(said: str) -> list[int]:
        marked = encode(MARK + said)
        return marked[len(mark) :] if marked[: len(mark)] == mark else encode(said)

    return within if encode("a") != within("a") else encode


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


def rendered(
    chat: v1.Chat,
    tokenizer: Tokenizer,
    form: ImageForm | None = None,
    special: SpecialTokens | None = None,
    **told: Any,
) -> list[str]:
    """Return `chat` as the model's template writes it, `told` its other variables, in pieces to be tokenized apart.

    An assistant's last message is left open, to be continued.
    """
    goes_on = bool(chat.messages) and chat.messages[-1].role == v1.ROLE_ASSISTANT
    tools = chat_template.of(tokenizer, tools="tools" in told).knows_tools
    messages = chat_messages.told(chat, form, tools=tools)
    if goes_on and any(part.HasField("tool_call") for part in chat.messages[-1].parts):
        place = f"spec.chat.messages[{len(chat.messages) - 1}]"
        raise invalid(place, "ends with a tool call: its result is to follow")
    mark = ""
    try:
        if special is not None:
            kept = form.reserved if form is not None and chat_messages.has_images(chat) else ()
            messages, listed, mark = special.marked(messages, told.get("tools"), kept)
            told = {**told, "tools": listed} if listed is not None else told
        text = str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on, **told
            )
        )
        return text.split(mark) if mark else [text]
    except Exception as error:  # templates are programs: what they raise is theirs
        if getattr(tokenizer, "chat_template", None) is None:
            raise unsupported("spec.chat", "this model has no chat template: send text or tokens") from None
        said = f"the model's chat template refuses these messages ({type(error).__name__})"
        raise invalid("spec.chat.messages", said) from None


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
