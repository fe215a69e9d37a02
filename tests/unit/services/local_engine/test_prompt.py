"""From messages to tokens."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from services.local_engine import chat_messages, prompt
from spillway import v1
from spillway.errors import ConstraintUnsupported, ContextLengthExceeded, RequestInvalid


class Letters:
    """A tokenizer whose tokens are code points, with a template of angle brackets."""

    chat_template: str | None = "a template"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return ([0] if add_special_tokens else []) + [ord(char) for char in text]

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        if self.chat_template is None or [message["role"] for message in messages[:2]] == ["user", "user"]:
            raise ValueError("secret words of the prompt")
        said = "".join(f"<{message['role']}>{message['content']}" for message in messages)
        return said + ("<assistant>" if options["add_generation_prompt"] else "")


def chat(*messages: tuple[v1.Role.ValueType, str]) -> v1.Chat:
    return v1.Chat(messages=[v1.Message(role=role, parts=[v1.Part(text=text)]) for role, text in messages])


def text_of(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def test_a_chat_is_written_by_the_models_template_without_special_tokens_of_ours() -> None:
    spec = v1.GenerationSpec(chat=chat((v1.ROLE_SYSTEM, "be kind"), (v1.ROLE_USER, "hi")))
    assert text_of(prompt.tokens(spec, Letters())) == "<system>be kind<user>hi<assistant>"


def test_an_assistants_last_message_is_continued() -> None:
    [text] = prompt.rendered(chat((v1.ROLE_USER, "hi"), (v1.ROLE_ASSISTANT, "Hel")), Letters())
    assert text.endswith("<assistant>Hel")


def test_an_answer_of_another_model_is_continued_after_its_text() -> None:
    begun = v1.Continuation(text="Hel")
    asked = chat((v1.ROLE_USER, "hi"))
    spec = v1.GenerationSpec(chat=asked, continuation=begun)
    assert text_of(prompt.tokens(spec, Letters())) == "<user>hi<assistant>Hel"
    assert spec.chat == asked
    own = v1.GenerationSpec(chat=chat((v1.ROLE_USER, "hi"), (v1.ROLE_ASSISTANT, "Oh. ")), continuation=begun)
    assert text_of(prompt.tokens(own, Letters())) == "<user>hi<assistant>Oh. Hel"
    assert text_of(prompt.tokens(v1.GenerationSpec(text=v1.TextPrompt(text="a "), continuation=begun), Letters())) == (
        "\0a Hel"
    )


def test_an_answer_with_tokens_is_continued_after_them_not_after_its_text() -> None:
    spec = v1.GenerationSpec(chat=chat((v1.ROLE_USER, "hi")), continuation=v1.Continuation(token_ids=[1], text="Hel"))
    assert text_of(prompt.tokens(spec, Letters())) == "<user>hi<assistant>"


def test_a_text_gets_the_tokenizers_special_tokens() -> None:
    assert prompt.tokens(v1.GenerationSpec(text=v1.TextPrompt(text="a")), Letters()) == [0, 97]


def test_parts_of_a_message_are_joined() -> None:
    message = v1.Message(role=v1.ROLE_USER, name="ann", parts=[v1.Part(text="a"), v1.Part(text="b")])
    assert chat_messages.told(v1.Chat(messages=[message])) == [{"role": "user", "content": "ab", "name": "ann"}]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (v1.Message(role=v1.ROLE_USER, parts=[v1.Part(image=v1.Image(url="x"))]), "parts[0].image"),
        (v1.Message(role=v1.ROLE_ASSISTANT, parts=[v1.Part(tool_call=v1.ToolCall(id="1"))]), "parts[0].tool_call"),
        (v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=v1.ToolResult())]), "role"),
    ],
)
def test_what_the_model_cannot_read_is_refused_by_field(message: v1.Message, field: str) -> None:
    for read in (chat_messages.told, lambda chat: prompt.rendered(chat, Letters())):
        with pytest.raises(ConstraintUnsupported) as refusal:
            read(v1.Chat(messages=[message]))
        assert refusal.value.fields[0].field == f"spec.chat.messages[0].{field}"


def seen(*parts: str | None) -> v1.Chat:
    """A message of texts, and of images where there is None."""
    told = [v1.Part(image=v1.Image(data=b"x")) if part is None else v1.Part(text=part) for part in parts]
    return v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=told)])


def test_an_image_to_a_model_that_reads_none_is_refused_by_field_before_the_template_sees_it() -> None:
    with pytest.raises(ConstraintUnsupported, match="reads no images") as refusal:
        prompt.tokens(v1.GenerationSpec(chat=seen("a", None)), Letters())
    assert refusal.value.fields[0].field == "spec.chat.messages[0].parts[1].image"


def test_a_template_that_takes_parts_gets_all_messages_in_parts() -> None:
    form = chat_messages.ImageForm(None)
    [told] = chat_messages.told(seen("Look: ", None, "?"), form)
    assert told["content"] == [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "?"}]
    [told] = chat_messages.told(chat((v1.ROLE_USER, "hi")), form)
    assert told["content"] == [{"type": "text", "text": "hi"}]


def test_a_template_that_takes_text_gets_a_line_for_each_image_numbered_through_the_chat() -> None:
    form = chat_messages.ImageForm(lambda number: f"<{number}>")
    both = v1.Chat(messages=[*seen(None, "a", "b", None).messages, *seen("c", None).messages])
    assert [told["content"] for told in chat_messages.told(both, form)] == ["<1>\nab\n<2>", "c\n<3>"]


def test_text_beside_images_may_not_hold_what_stands_for_one() -> None:
    form = chat_messages.ImageForm(None, frozenset({"<image>"}))
    with pytest.raises(RequestInvalid, match="stands for an image") as refusal:
        chat_messages.told(seen(None, "an <image>"), form)
    assert refusal.value.fields[0].field == "spec.chat.messages[0].parts[1].text"
    assert chat_messages.told(seen("an <image>"), form)


def test_nor_may_the_beginning_of_its_answer() -> None:
    form = chat_messages.ImageForm(None, frozenset({"<image>"}))
    spec = v1.GenerationSpec(chat=seen(None, "a"), continuation=v1.Continuation(text="an <image>"))
    with pytest.raises(RequestInvalid, match="stands for an image") as refusal:
        prompt.tokens(spec, Letters(), form=form)
    assert refusal.value.fields[0].field == "spec.continuation.text"


class Tools(Letters):
    """Its template knows tools."""

    chat_template: str | None = "{{ tools }}"


CALL = v1.Part(tool_call=v1.ToolCall(id="c", name="clock", arguments='{"zone": "CET"}'))
RESULT = v1.Part(tool_result=v1.ToolResult(tool_call_id="c", content="noon"))


def test_calls_and_their_results_are_told_as_templates_take_them() -> None:
    told = v1.Chat(
        messages=[
            v1.Message(role=v1.ROLE_ASSISTANT, parts=[v1.Part(text="Well."), CALL]),
            v1.Message(role=v1.ROLE_TOOL, parts=[RESULT, RESULT]),
        ]
    )
    function = {"name": "clock", "arguments": {"zone": "CET"}}
    result = {"role": "tool", "content": "noon", "tool_call_id": "c"}
    calls = [{"id": "c", "type": "function", "function": function}]
    assert chat_messages.told(told, tools=True) == [
        {"role": "assistant", "content": "Well.", "tool_calls": calls},
        result,
        result,
    ]


@pytest.mark.parametrize("arguments", ["", "[1]", '{"zone": "C'])
def test_a_call_that_was_cut_off_stays_in_the_conversation_without_arguments(arguments: str) -> None:
    part = v1.Part(tool_call=v1.ToolCall(id="c", name="clock", arguments=arguments))
    (told,) = chat_messages.told(v1.Chat(messages=[v1.Message(role=v1.ROLE_ASSISTANT, parts=[part])]), tools=True)
    assert told["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (v1.Message(role=v1.ROLE_USER, parts=[CALL]), "spec.chat.messages[0].parts[0].tool_call"),
        (v1.Message(role=v1.ROLE_ASSISTANT, parts=[RESULT]), "spec.chat.messages[0].parts[0].tool_result"),
        (v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(text="noon")]), "spec.chat.messages[0].parts[0]"),
        (v1.Message(role=v1.ROLE_ASSISTANT, parts=[CALL]), "spec.chat.messages[0]"),
    ],
)
def test_what_stands_in_the_wrong_place_is_refused_by_field(message: v1.Message, field: str) -> None:
    with pytest.raises(RequestInvalid) as refusal:
        prompt.tokens(v1.GenerationSpec(chat=v1.Chat(messages=[message])), Tools())
    assert refusal.value.fields[0].field == field


def test_what_the_template_tells_the_model_goes_with_a_chat_alone() -> None:
    text = v1.TextPrompt(text="a")
    for spec, field in (
        (v1.GenerationSpec(text=text, tools=[v1.Tool(name="t")]), "spec.tools"),
        (v1.GenerationSpec(text=text, reasoning_effort=v1.REASONING_EFFORT_LOW), "spec.reasoning_effort"),
    ):
        with pytest.raises(ConstraintUnsupported) as refusal:
            prompt.tokens(spec, Tools())
        assert refusal.value.fields[0].field == field
    off = v1.GenerationSpec(text=text, reasoning_effort=v1.REASONING_EFFORT_NONE)
    assert prompt.tokens(off, Tools()) == [0, 97]


def test_a_template_that_refuses_is_the_callers_error_and_tells_no_prompt() -> None:
    with pytest.raises(RequestInvalid) as refusal:
        prompt.rendered(chat((v1.ROLE_USER, "a"), (v1.ROLE_USER, "b")), Letters())
    assert "secret" not in str(refusal.value)


def test_a_model_without_template_takes_no_chat() -> None:
    tokenizer = Letters()
    tokenizer.chat_template = None
    with pytest.raises(ConstraintUnsupported, match=r"spec\.chat"):
        prompt.rendered(chat((v1.ROLE_USER, "a")), tokenizer)


def test_token_ids_pass_as_they_are_unless_the_model_has_no_such_token() -> None:
    assert prompt.known([3, 9], vocabulary=10) == [3, 9]
    with pytest.raises(RequestInvalid, match=r"spec\.tokens\.ids: has the id 10"):
        prompt.known([10], vocabulary=10)


@pytest.mark.parametrize(
    ("tokens", "top", "at_once", "vocabulary", "said"),
    [
        (2**15, 0, 4096, 1000, ""),
        (2**15 + 1, 0, 0, 1000, "makes 32769 log probabilities; at most 32768"),
        (4000, 20, 0, 1000, "makes 84000 log probabilities"),
        (2000, 0, 4096, 150_000, "takes 2.2 GiB at once, and at most 2: shorten the prompt, or lower local_engine"),
        (2000, 0, 1024, 150_000, ""),
        (2000, 0, 0, 150_000, ""),
    ],
)
def test_what_is_too_much_to_tell_or_compute_of_a_prompt_is_refused(
    tokens: int, top: int, at_once: int, vocabulary: int, said: str
) -> None:
    with pytest.raises(RequestInvalid, match=said) if said else nullcontext() as refusal:
        prompt.tellable(tokens, top, at_once=at_once, vocabulary=vocabulary)
    if refusal is not None:
        assert [violation.field for violation in refusal.value.fields] == ["spec.logprobs.prompt"]


def test_a_prompt_that_fills_the_context_is_refused_with_the_numbers() -> None:
    assert prompt.room(9, 10, "chat") == 1
    with pytest.raises(ContextLengthExceeded) as refusal:
        prompt.room(10, 10, "chat")
    assert refusal.value.metadata == {"tokens": "10", "limit": "10"}
    assert refusal.value.fields[0].field == "spec.chat"
