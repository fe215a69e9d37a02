"""What Anthropic cannot be asked for, and how a schema is told to it."""

from __future__ import annotations

from typing import Any

import pytest

from services.cloud_proxy.wires.anthropic_schema import adapted
from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid
from tests.unit.services.cloud_proxy.wires.anthropic_chats import (
    MIDDLE,
    MYTHOS,
    NEW,
    OLD,
    PREFILLED,
    assistant,
    called,
    chat,
    hello,
    sampled,
    state,
    system,
    user,
    wire,
)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": ["string", "null"], "enum": ["a", None]}, {"enum": ["a", None]}),
        (
            {"type": ["object", "null"], "properties": {"a": {"$ref": "#/$defs/p"}}, "$defs": {"p": {"type": "null"}}},
            {
                "anyOf": [
                    {"type": "object", "properties": {"a": {"$ref": "#/$defs/p"}}, "additionalProperties": False},
                    {"type": "null"},
                ],
                "$defs": {"p": {"type": "null"}},
            },
        ),
        ({"allOf": [{"$ref": "#/$defs/p"}], "description": "d"}, None),
        ({"type": "string", "format": {}}, {"type": "string", "description": '{"format": {}}'}),
        ({"oneOf": [{"const": 1}, {"enum": ["b"]}]}, {"anyOf": [{"const": 1}, {"enum": ["b"]}]}),
        ({"type": "array", "items": {"$ref": "#/$defs/p"}, "minItems": 1}, None),
        ({"type": "string", "format": "date", "$comment": "x"}, {"type": "string", "format": "date"}),
        ({"type": "string", "format": "x"}, {"type": "string", "description": '{"format": "x"}'}),
        ({"type": "null", "maximum": 1, "description": "d"}, {"type": "null", "description": 'd\n\n{"maximum": 1}'}),
        ({"$ref": "#/$defs/p", "default": 1}, {"$ref": "#/$defs/p"}),
    ],
)  # fmt: skip
def test_a_schema_is_told_in_the_words_that_are_taken(schema: dict[str, Any], told: object) -> None:
    assert adapted(schema) == (told or schema)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"description": "anything"},
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"type": "object"}}},
        {"type": "array", "items": {}},
        {"allOf": [{"properties": {"a": {"type": "null"}}}, {"properties": {"b": {"type": "null"}}}]},
        {"properties": {"a": {"type": "null"}}, "anyOf": [{"$ref": "#/$defs/p"}]},
        {"type": "object", "patternProperties": {"x": {"type": "string"}}, "properties": {"a": {"type": "null"}}},
    ],
)
def test_a_schema_of_what_cannot_be_named_is_refused(schema: object) -> None:
    with pytest.raises(ConstraintUnsupported) as caught:
        adapted(schema)
    assert caught.value.fields[0].field == "spec.constraint.json_schema"


def continued(text: str = "The sky") -> v1.GenerationSpec:
    return hello(continuation=v1.Continuation(text=text))


LOW = v1.REASONING_EFFORT_LOW


@pytest.mark.parametrize(
    ("spec", "model", "field"),
    [
        (hello(adapter="a"), OLD, "spec.adapter"),
        (v1.GenerationSpec(tokens=v1.TokenPrompt(ids=[1])), OLD, "spec.tokens"),
        (v1.GenerationSpec(text=v1.TextPrompt(text="a", suffix="b")), OLD, "spec.text.suffix"),
        (sampled(n=2), OLD, "spec.sampling.n"),
        (sampled(seed=0), OLD, "spec.sampling.seed"),
        (sampled(min_p=0.1), OLD, "spec.sampling.min_p"),
        (sampled(min_tokens=1), OLD, "spec.sampling.min_tokens"),
        (sampled(presence_penalty=0.1), OLD, "spec.sampling.presence_penalty"),
        (sampled(frequency_penalty=0.1), OLD, "spec.sampling.frequency_penalty"),
        (sampled(repetition_penalty=1.1), OLD, "spec.sampling.repetition_penalty"),
        (sampled(logit_bias={1: 1.0}), OLD, "spec.sampling.logit_bias"),
        (sampled(temperature=1.1), OLD, "spec.sampling.temperature"),
        (sampled(temperature=0.5), NEW, "spec.sampling.temperature"),
        (sampled(top_p=0.5), MYTHOS, "spec.sampling.top_p"),
        (sampled(top_k=5), NEW, "spec.sampling.top_k"),
        (hello(sampling=v1.Sampling(temperature=0), reasoning_effort=LOW), OLD, "spec.sampling.temperature"),
        (hello(sampling=v1.Sampling(top_p=0.9), reasoning_effort=LOW), MIDDLE, "spec.sampling.top_p"),
        (hello(sampling=v1.Sampling(top_k=5), reasoning_effort=LOW), OLD, "spec.sampling.top_k"),
        (hello(sampling=v1.Sampling(max_tokens=1024), reasoning_effort=LOW), OLD, "spec.sampling.max_tokens"),
        (hello(reasoning_effort=v1.REASONING_EFFORT_NONE), MYTHOS, "spec.reasoning_effort"),
        (
            hello(reasoning_effort=LOW, tools=[v1.Tool(name="a")], tool_choice=v1.ToolChoice(name="a")),
            OLD,
            "spec.tool_choice",
        ),
        (hello(logprobs=v1.Logprobs()), OLD, "spec.logprobs"),
        (hello(stop=v1.Stop(token_ids=[1])), OLD, "spec.stop.token_ids"),
        (hello(stop=v1.Stop(include_stop=True)), OLD, "spec.stop.include_stop"),
        (hello(stop=v1.Stop(ignore_eos=True)), OLD, "spec.stop.ignore_eos"),
        (hello(stop=v1.Stop(strings=["a", "\n"])), OLD, "spec.stop.strings[1]"),
        (hello(constraint=v1.OutputConstraint(json_object=True)), OLD, "spec.constraint.json_object"),
        (hello(constraint=v1.OutputConstraint(regex="a")), OLD, "spec.constraint.regex"),
        (hello(prompt_cache=v1.PromptCache(ttl_s=3601)), OLD, "spec.prompt_cache.ttl_s"),
        (chat(user("a", name="Ann")), OLD, "spec.chat.messages[0].name"),
        (
            chat(user(v1.Part(image=v1.Image(data=b"x", mime_type="image/tiff")))),
            OLD,
            "spec.chat.messages[0].parts[0].image.mime_type",
        ),
        (continued(), OLD, "spec.continuation.text"),
        (continued("The "), PREFILLED, "spec.continuation.text"),
        (hello(continuation=v1.Continuation(token_ids=[1])), PREFILLED, "spec.continuation.token_ids"),
        (chat(user("a"), assistant("b")), NEW, "spec.chat.messages[1]"),
    ],
)
def test_what_the_provider_cannot_do_is_refused_by_the_fields_name(
    spec: v1.GenerationSpec, model: str, field: str
) -> None:
    with pytest.raises(ConstraintUnsupported) as caught:
        wire().prepare(spec, model)
    assert [violation.field for violation in caught.value.fields] == [field]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (chat(system("a")), "spec.chat.messages"),
        (chat(user("a"), assistant(called(arguments="[1]"))), "spec.chat.messages[1].parts[0].tool_call.arguments"),
        (chat(user(called())), "spec.chat.messages[0].parts[0]"),
        (chat(user(v1.Part(image=v1.Image(data=b"x")))), "spec.chat.messages[0].parts[0].image"),
        (
            chat(user("a"), assistant(state((0, {"type": "text"})), "b")),
            "spec.chat.messages[1].parts[0].provider_state.state",
        ),
        (hello(tools=[v1.Tool(name="a", parameters_json_schema="{")]), "spec.tools[0].parameters_json_schema"),
        (hello(tools=[v1.Tool(name="a", parameters_json_schema="1")]), "spec.tools[0].parameters_json_schema"),
    ],
)
def test_what_is_wrong_is_named(spec: v1.GenerationSpec, field: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        wire().prepare(spec, OLD)
    assert [violation.field for violation in caught.value.fields] == [field]


def test_no_header_is_smuggled_in() -> None:
    spec = hello()
    spec.extra.update({"anthropic-beta": "a\r\nx-api-key: b"})
    with pytest.raises(RequestInvalid):
        wire().prepare(spec, OLD)


def test_nothing_is_embedded_here() -> None:
    with pytest.raises(ConstraintUnsupported):
        wire().prepare_embedding(v1.EmbeddingSpec(), OLD)
