"""Mistral's words, piece by piece."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.mistral import Begun, Mistral, own_id
from services.cloud_proxy.wires.mistral_answer import MistralAnswer, plain_error
from spillway import errors, v1
from spillway.generation import merge_delta

SETTINGS = ProviderSettings.model_validate(
    {"name": "mistral", "kind": "mistral", "region": "eu", "models": [{"name": "m"}]}
)
WIRE = Mistral(SETTINGS)


def chunk(content: Any, *, finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content, **delta}, "finish_reason": finish}
    return json.dumps({"model": "m", "choices": [choice]}).encode()


def read(*events: bytes, begun: str = "", exchange: Exchange | None = None) -> v1.Delta:
    answer, whole = MistralAnswer("mistral", 1, exchange or Exchange(), begun=begun), v1.Delta()
    for event in events:
        for delta in answer.take([event]):
            merge_delta(whole, delta)
    answer.take([b"[DONE]"])
    answer.check()
    return whole


def test_an_id_of_nine_letters_and_digits_stays_and_any_other_becomes_one() -> None:
    assert own_id("Caf7Pyrd8") == "Caf7Pyrd8"
    made = [own_id(id) for id in ("call_1", "call_2", "toolu_01VpEm654HvfMoRcrE3Hgdc6", "", "größer")]
    assert made == [own_id(id) for id in ("call_1", "call_2", "toolu_01VpEm654HvfMoRcrE3Hgdc6", "", "größer")]
    assert len(set(made)) == len(made)
    assert all(len(id) == 9 and id.isascii() and id.isalnum() for id in made)


@pytest.mark.parametrize("begun", ["Sim", "The answer is 4", "The answer is 42.", "The answer is 42. No", "A"])
def test_a_beginning_that_is_repeated_is_left_out_however_the_answer_is_cut(begun: str) -> None:
    text = "The answer is 42."
    for seed in range(100):
        cuts = random.Random(seed)
        places = sorted(cuts.sample(range(1, len(text)), cuts.randrange(6)))
        pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
        events = [chunk(piece) for piece in pieces]
        said = read(*events, chunk("", finish="stop"), begun=begun).text
        assert said == text.removeprefix(begun)


@pytest.mark.parametrize("texts", [["so "], ["so", " "]])
def test_a_chat_that_ends_with_the_assistants_words_is_an_answer_begun(texts: list[str]) -> None:
    parts = [v1.Part(text=text) for text in texts]
    prepared = WIRE.prepare(
        v1.GenerationSpec(chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_ASSISTANT, parts=parts)])), "m"
    )
    assert isinstance(prepared, Begun)
    assert prepared.begun == "so "
    assert json.loads(prepared.body)["messages"][-1]["prefix"] is True


def test_thoughts_references_and_words_of_one_list_come_apart() -> None:
    content = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, {"type": "reference", "reference_ids": [1]}]},
        {"type": "text", "text": "so: "},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": "4"},
    ]
    said = read(chunk(content, finish="stop"))
    assert (said.reasoning, said.text, said.HasField("provider_state")) == ("hm", "so: 4", False)


def test_a_signature_comes_once_with_all_that_was_thought_before_a_call_too() -> None:
    thoughts = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]} for text in ("a", "b")]
    thoughts[1]["signature"] = "s"
    call = {"index": 0, "id": "Caf7Pyrd8", "function": {"name": "look", "arguments": {"city": "Bern"}}}
    said = read(chunk(thoughts[:1]), chunk(thoughts[1:]), chunk("", tool_calls=[call], finish="tool_calls"))
    assert said.tool_calls[0].arguments == '{"city": "Bern"}'
    [thought] = json.loads(said.provider_state.state)
    assert (thought["signature"], thought["thinking"]) == ("s", [{"type": "text", "text": "ab"}])


def test_a_full_context_is_a_length_and_an_error_is_no_end() -> None:
    exchange = Exchange()
    read(chunk("x", finish="model_length"), exchange=exchange)
    assert exchange.finishes[0].reason == v1.FINISH_REASON_LENGTH
    with pytest.raises(errors.ProviderError):
        read(chunk("x", finish="error"))


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"),
    [
        ({"detail": "Unauthorized"}, 401, errors.ProviderAuthFailed, None),
        ({"detail": [{"type": "missing", "loc": ["body", "messages", 0, "x"]}]}, 422, errors.RequestInvalid, "0.x"),
        (
            {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}},
            422,
            errors.RequestInvalid,
            "seed",
        ),
        ({"object": "error", "message": "secret", "type": "invalid_model"}, 400, errors.TargetModelMissing, None),
        ({"object": "error", "message": "secret", "code": "3505"}, 429, errors.ProviderRateLimited, None),
        (
            {"object": "error", "message": "too large for model with 32768 maximum context length"},
            400,
            errors.ContextLengthExceeded,
            None,
        ),
        ("nonsense", 500, errors.ProviderError, None),
        ({"detail": []}, 400, errors.RequestInvalid, None),
        ({"detail": [7], "message": 7}, 400, errors.RequestInvalid, None),
    ],
)
def test_every_shape_of_error_is_understood_and_none_quoted(
    body: object, status: int, kind: type[errors.SpillwayError], field: str | None
) -> None:
    error = WIRE.refusal(status, body, {}, now=0.0, request_id="r")
    assert type(error) is kind
    assert "secret" not in repr(error)
    assert [violation.field.endswith(field or "") for violation in error.fields] == ([True] if field else [])


def test_an_error_without_a_shape_has_none() -> None:
    assert plain_error(None) == {}


@pytest.mark.parametrize("state", [b"", b"{", b"{}", b"[" * 100_000])
def test_a_state_that_is_none_of_mistrals_is_refused_with_its_place(state: bytes) -> None:
    parts = [v1.Part(provider_state=v1.ProviderState(wire="mistral", state=state)), v1.Part(text="x")]
    messages = [
        v1.Message(role=v1.ROLE_ASSISTANT, parts=parts),
        v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="x")]),
    ]
    with pytest.raises(errors.RequestInvalid) as raised:
        WIRE.prepare(v1.GenerationSpec(chat=v1.Chat(messages=messages)), "m")
    assert [violation.field for violation in raised.value.fields] == [
        "spec.chat.messages[0].parts[0].provider_state.state"
    ]


def test_tokens_are_not_embedded() -> None:
    inputs = [v1.EmbeddingInput(tokens=v1.EmbeddingTokens(ids=[1]))]
    with pytest.raises(errors.ConstraintUnsupported) as raised:
        WIRE.prepare_embedding(v1.EmbeddingSpec(inputs=inputs), "m")
    assert raised.value.fields[0].field == "spec.inputs[0].tokens"


def test_it_says_whose_it_is() -> None:
    assert repr(WIRE) == "<Mistral mistral>"
