"""What a request becomes for each runtime, and what is refused instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from services.local_engine.openai_dialect import OpenAIDialect
from services.local_engine.presets import (
    ALL,
    GPT4ALL,
    LLAMA_CPP,
    LLAMA_CPP_PYTHON,
    PRESETS,
    TENSORRT_LLM,
    TRANSFORMERS,
    VLLM_SERVE,
    Preset,
)
from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid

TOOL = v1.Tool(name="find", parameters_json_schema="{}")
each = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)


def asking(**fields: Any) -> v1.GenerationSpec:
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="hi")])])
    return v1.GenerationSpec(chat=chat, **fields)


def body(preset: Preset, extra: Sequence[v1.Capability.ValueType] = (), **fields: Any) -> dict[str, Any]:
    return OpenAIDialect(preset, (*preset.capabilities, *extra)).body(asking(**fields), "m")


def refused(preset: Preset, **fields: Any) -> str:
    with pytest.raises(ConstraintUnsupported) as raised:
        body(preset, **fields)
    (violation,) = raised.value.fields
    return violation.field


def test_every_parameter_of_the_contract_has_one_name_here() -> None:
    fields = {field.name for field in v1.Sampling.DESCRIPTOR.fields}
    stops = {"strings": "stop", "token_ids": "stop_token_ids"}
    fields |= {stops.get(field.name, field.name) for field in v1.Stop.DESCRIPTOR.fields}
    assert fields == ALL
    assert all(preset.parameters <= ALL for preset in PRESETS.values())


@each
def test_what_a_runtime_lacks_is_refused_with_the_path_of_the_field(preset: Preset) -> None:
    asked = {
        "top_k": v1.Sampling(top_k=5),
        "min_p": v1.Sampling(min_p=0.5),
        "repetition_penalty": v1.Sampling(repetition_penalty=1.5),
        "min_tokens": v1.Sampling(min_tokens=3),
        "n": v1.Sampling(n=2),
        "seed": v1.Sampling(seed=0),
        "presence_penalty": v1.Sampling(presence_penalty=1),
        "frequency_penalty": v1.Sampling(frequency_penalty=1),
        "logit_bias": v1.Sampling(logit_bias={1: 2}),
    }
    for name, sampling in asked.items():
        if name in preset.parameters:
            assert body(preset, sampling=sampling)[preset.names.get(name, name)] is not None
        else:
            assert refused(preset, sampling=sampling) == f"spec.sampling.{name}"
    for field, name, stop in (
        ("strings", "stop", v1.Stop(strings=["x"])),
        ("token_ids", "stop_token_ids", v1.Stop(token_ids=[1])),
        ("include_stop", "include_stop", v1.Stop(include_stop=True)),
        ("ignore_eos", "ignore_eos", v1.Stop(ignore_eos=True)),
    ):
        if name not in preset.parameters:
            assert refused(preset, stop=stop) == f"spec.stop.{field}"


@each
def test_a_value_that_asks_for_nothing_is_no_reason_to_refuse(preset: Preset) -> None:
    body(preset, sampling=v1.Sampling(n=1, top_k=-1, min_p=0, repetition_penalty=1, min_tokens=0))


@each
def test_usage_is_asked_for_where_that_is_understood(preset: Preset) -> None:
    assert ("stream_options" in body(preset)) is (preset.usage == "asked" and preset.streams)
    assert body(preset)["stream"] is preset.streams


@pytest.mark.parametrize(
    ("preset", "constraint", "told"),
    [
        (VLLM_SERVE, v1.OutputConstraint(regex="a+"), {"structured_outputs": {"regex": "a+"}}),
        (VLLM_SERVE, v1.OutputConstraint(grammar="g"), {"structured_outputs": {"grammar": "g"}}),
        (
            VLLM_SERVE,
            v1.OutputConstraint(choices=v1.Choices(values=["a", "b"])),
            {"structured_outputs": {"choice": ["a", "b"]}},
        ),
        (TENSORRT_LLM, v1.OutputConstraint(regex="a+"), {"response_format": {"type": "regex", "regex": "a+"}}),
        (TENSORRT_LLM, v1.OutputConstraint(grammar="g"), {"response_format": {"type": "ebnf", "ebnf": "g"}}),
        (LLAMA_CPP, v1.OutputConstraint(grammar="g"), {"grammar": "g"}),
        (
            replace(LLAMA_CPP_PYTHON, capabilities=(*LLAMA_CPP_PYTHON.capabilities, v1.CAPABILITY_GRAMMAR)),
            v1.OutputConstraint(grammar="g"),
            {"grammar": "g"},
        ),
        (LLAMA_CPP, v1.OutputConstraint(json_object=True), {"response_format": {"type": "json_object"}}),
    ],
)
def test_a_constraint_is_told_in_the_runtimes_own_words(
    preset: Preset, constraint: v1.OutputConstraint, told: dict[str, Any]
) -> None:
    found = body(preset, constraint=constraint)
    assert {name: found[name] for name in told} == told


@pytest.mark.parametrize(
    ("preset", "constraint", "field"),
    [
        (LLAMA_CPP, v1.OutputConstraint(regex="a+"), "regex"),
        (TENSORRT_LLM, v1.OutputConstraint(choices=v1.Choices(values=["a"])), "choices"),
        (TRANSFORMERS, v1.OutputConstraint(json_object=True), "json_object"),
        (GPT4ALL, v1.OutputConstraint(json_schema="{}"), "json_schema"),
        (LLAMA_CPP_PYTHON, v1.OutputConstraint(grammar="g"), "grammar"),
    ],
)
def test_a_constraint_that_cannot_be_told_is_refused(
    preset: Preset, constraint: v1.OutputConstraint, field: str
) -> None:
    assert refused(preset, constraint=constraint) == f"spec.constraint.{field}"


def test_an_answer_that_is_only_checked_is_decoded_freely() -> None:
    constraint = v1.OutputConstraint(regex="a+", enforcement=v1.ENFORCEMENT_CHECKED)
    assert body(GPT4ALL, constraint=constraint).keys() == {"model", "messages", "stream"}


def test_a_choice_of_tools_that_would_be_ignored_is_refused_or_done_here() -> None:
    required = v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_REQUIRED)
    none = v1.ToolChoice(mode=v1.TOOL_CHOICE_MODE_NONE)
    assert refused(TRANSFORMERS, tools=[TOOL], tool_choice=required) == "spec.tool_choice"
    assert "tools" not in body(TRANSFORMERS, tools=[TOOL], tool_choice=none)
    assert "tool_choice" not in body(TRANSFORMERS, tools=[TOOL])


def test_tools_are_offered_aloud_because_some_take_none_for_the_default() -> None:
    assert body(TENSORRT_LLM, tools=[TOOL])["tool_choice"] == "auto"


def shown(url: str) -> v1.GenerationSpec:
    spec = asking()
    spec.chat.messages[0].parts.add().image.url = url
    return spec


SEES = (*LLAMA_CPP.capabilities, v1.CAPABILITY_IMAGES)


def test_images_go_to_a_model_that_is_said_to_read_them() -> None:
    spec = shown("data:image/png;base64,iVBORw==")
    with pytest.raises(ConstraintUnsupported, match="reads no images"):
        OpenAIDialect(LLAMA_CPP, LLAMA_CPP.capabilities).body(spec, "m")
    told = OpenAIDialect(LLAMA_CPP, SEES).body(spec, "m")
    assert told["messages"][0]["content"][1]["image_url"] == {"url": "data:image/png;base64,iVBORw=="}


@pytest.mark.parametrize("url", ["http://here/a.png", "https://10.0.0.1/a.png", "file:///etc/passwd", "a.png"])
def test_an_address_of_an_image_is_never_given_to_a_runtime_that_would_go_there(url: str) -> None:
    with pytest.raises(RequestInvalid) as refusal:
        OpenAIDialect(LLAMA_CPP, SEES).body(shown(url), "m")
    assert refusal.value.fields[0].field == "spec.chat.messages[0].parts[1].image.url"


def test_addresses_of_listed_hosts_are_given_as_they_were_looked_at() -> None:
    dialect = OpenAIDialect(LLAMA_CPP, SEES, fetch_from={"here"})
    told = dialect.body(shown("HTTP://HERE/a.png?x=1"), "m")
    assert told["messages"][0]["content"][1]["image_url"] == {"url": "http://here/a.png?x=1"}
    for url in ("http://there/a.png", "http://here@there/", "http://here\\@there/", "http://here.there/"):
        with pytest.raises(RequestInvalid):
            dialect.body(shown(url), "m")


def test_an_answer_that_was_begun_goes_on_in_the_form_the_runtime_takes() -> None:
    begun = v1.Continuation(text="So ")
    assert body(LLAMA_CPP, continuation=begun)["messages"][-1] == {"role": "assistant", "content": "So "}
    assert body(VLLM_SERVE, continuation=begun)["continue_final_message"] is True
    assert refused(TRANSFORMERS, continuation=begun) == "spec.continuation"
    assert "continue_final_message" not in body(VLLM_SERVE)


def test_log_probabilities_beside_tools_are_refused_where_that_fails() -> None:
    assert refused(LLAMA_CPP, tools=[TOOL], logprobs=v1.Logprobs(top=1)) == "spec.logprobs"
    assert body(LLAMA_CPP, logprobs=v1.Logprobs(top=1))["top_logprobs"] == 1
