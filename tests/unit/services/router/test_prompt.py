"""What of a spec is inspected: all that a target would see."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor

from services.router.prompt import NOT_READ, Prompt, read_prompt
from spillway import v1
from tests.unit.services.router.test_cache_key import leaves

NAMES = {name.rpartition(".")[2] for name in NOT_READ}
UNREADABLE = {
    "tokens.ids": "token ids",
    "continuation.token_ids": "token ids",
    "chat.messages.parts.image.url": "images",
    "chat.messages.parts.image.data": "images",
    "chat.messages.parts.image.mime_type": "images",
}


def text_paths() -> set[str]:
    """Of every field of a spec that holds text, however deep."""

    def walk(descriptor: object, path: str) -> set[str]:
        found = set()
        for field in descriptor.fields:  # type: ignore[attr-defined]
            place = f"{path}.{field.name}".lstrip(".")
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                if FieldDescriptor.TYPE_STRING in (part.type for part in field.message_type.fields):
                    found.add(place)
            elif field.message_type is not None and not field.message_type.full_name.startswith("google."):
                found |= walk(field.message_type, place)
            elif field.type == FieldDescriptor.TYPE_STRING:
                found.add(place)
        return found

    return walk(v1.GenerationSpec.DESCRIPTOR, "")


def test_every_text_of_a_spec_is_read_or_is_a_name_or_cannot_be_read() -> None:
    texts = text_paths()
    assert len(texts) > 20
    wrong = []
    for path, spec in leaves(v1.GenerationSpec()):
        if path in UNREADABLE:
            expected = Prompt((), (UNREADABLE[path],))
        elif path == "chat.messages.parts.provider_state.state":
            expected = Prompt((), (), ("a provider's state",))
        elif path == "extra":
            expected = Prompt(("a", "1"), ())
        else:
            told = path in texts - NAMES or f"{path}.value" in texts  # of a map
            expected = Prompt(("x",) if told else (), ())
        if read_prompt(spec) != expected:
            wrong.append(path)
    assert wrong == []


def test_a_conversation_is_read_whoever_speaks_with_its_tools_and_their_results() -> None:
    call = v1.ToolCall(id="c1", name="find", arguments='{"email": "a@b.example"}')
    spec = v1.GenerationSpec(
        request_id="r",
        chat=v1.Chat(
            messages=[
                v1.Message(role=v1.ROLE_SYSTEM, parts=[v1.Part(text="be kind"), v1.Part(text="be brief")]),
                v1.Message(role=v1.ROLE_USER, name="Ann", parts=[v1.Part(text="find her")]),
                v1.Message(role=v1.ROLE_ASSISTANT, parts=[v1.Part(text=""), v1.Part(tool_call=call)]),
                v1.Message(
                    role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=v1.ToolResult(tool_call_id="c1", content="found"))]
                ),
                v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="be brief")]),
            ]
        ),
        tools=[v1.Tool(name="find", description="finds", parameters_json_schema='{"type": "object"}')],
    )
    texts = {"be kind", "be brief", "find her", "Ann", "c1", "find", '{"email": "a@b.example"}', "found", "finds"}
    prompt = read_prompt(spec)
    assert set(prompt.texts) == texts | {'{"type": "object"}'}
    assert len(prompt.texts) == len(set(prompt.texts))
    assert prompt.unreadable == ()


def test_a_number_among_extra_parameters_is_read_as_its_digits() -> None:
    spec = v1.GenerationSpec()
    spec.extra.update({"payment": {"cards": [4111111111111111, "5500"]}, "stream": True})
    assert set(read_prompt(spec).texts) == {"payment", "cards", "4111111111111111", "5500", "stream"}


def test_every_text_of_an_embedding_is_read_and_its_tokens_cannot_be() -> None:
    inputs = [
        v1.EmbeddingInput(text="one"),
        v1.EmbeddingInput(text="two"),
        v1.EmbeddingInput(tokens=v1.EmbeddingTokens(ids=[7])),
    ]
    spec = v1.EmbeddingSpec(request_id="r", model="m", inputs=inputs)
    spec.extra.update({"prompt": "three"})
    found = read_prompt(spec)
    assert set(found.texts) == {"one", "two", "prompt", "three"}
    assert found.unreadable == ("token ids",)
