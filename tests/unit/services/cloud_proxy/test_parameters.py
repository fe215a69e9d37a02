"""Parameters that a provider lacks are refused where they are asked for, and only there."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from services.cloud_proxy.parameters import ParameterName, require_none
from spillway import v1
from spillway.errors import ConstraintUnsupported

NAMED = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, name="Ann", parts=[v1.Part(text="x")])])
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "frequency_penalty": ("spec.sampling.frequency_penalty", {"sampling": v1.Sampling(frequency_penalty=1)}),
    "json_schema": ("spec.constraint.json_schema", {"constraint": v1.OutputConstraint(json_schema="{}")}),
    "logit_bias": ("spec.sampling.logit_bias", {"sampling": v1.Sampling(logit_bias={1: 2.0})}),
    "logprobs": ("spec.logprobs", {"logprobs": v1.Logprobs()}),
    "message_name": ("spec.chat.messages", {"chat": NAMED}),
    "min_p": ("spec.sampling.min_p", {"sampling": v1.Sampling(min_p=0.5)}),
    "min_tokens": ("spec.sampling.min_tokens", {"sampling": v1.Sampling(min_tokens=1)}),
    "n": ("spec.sampling.n", {"sampling": v1.Sampling(n=2)}),
    "presence_penalty": ("spec.sampling.presence_penalty", {"sampling": v1.Sampling(presence_penalty=1)}),
    "reasoning_effort": ("spec.reasoning_effort", {"reasoning_effort": v1.REASONING_EFFORT_LOW}),
    "repetition_penalty": ("spec.sampling.repetition_penalty", {"sampling": v1.Sampling(repetition_penalty=1.5)}),
    "response_format": ("spec.constraint", {"constraint": v1.OutputConstraint(json_object=True)}),
    "seed": ("spec.sampling.seed", {"sampling": v1.Sampling(seed=0)}),
    "stop": ("spec.stop.strings", {"stop": v1.Stop(strings=["x"])}),
    "stop_tokens": ("spec.stop", {"stop": v1.Stop(ignore_eos=True)}),
    "tool_choice": ("spec.tool_choice", {"tool_choice": v1.ToolChoice(name="x")}),
    "tools": ("spec.tools", {"tools": [v1.Tool(name="x")]}),
    "top_k": ("spec.sampling.top_k", {"sampling": v1.Sampling(top_k=5)}),
}


@pytest.mark.parametrize("name", get_args(ParameterName))
def test_what_is_lacking_is_refused_by_its_field_and_nothing_else_is(name: ParameterName) -> None:
    field, asked = ASKED[name]
    spec = v1.GenerationSpec(**asked)
    with pytest.raises(ConstraintUnsupported) as raised:
        require_none(spec, [name])
    assert [violation.field for violation in raised.value.fields] == [field]
    require_none(spec, set(get_args(ParameterName)) - {name, "response_format"})


def test_a_parameter_that_is_off_is_none_that_is_lacking() -> None:
    off = v1.Sampling(n=1, top_k=-1, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, min_tokens=0)
    require_none(v1.GenerationSpec(sampling=off), get_args(ParameterName))


def test_an_answer_that_is_only_checked_asks_for_no_form() -> None:
    checked = v1.OutputConstraint(json_schema="{}", enforcement=v1.ENFORCEMENT_CHECKED)
    require_none(v1.GenerationSpec(constraint=checked), ["json_schema", "response_format"])


def test_a_tools_name_is_no_speakers() -> None:
    require_none(v1.GenerationSpec(chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_TOOL, name="f")])), ["message_name"])


def test_all_that_is_lacking_is_told_at_once() -> None:
    spec = v1.GenerationSpec(sampling=v1.Sampling(n=2, seed=1))
    with pytest.raises(ConstraintUnsupported) as raised:
        require_none(spec, ["seed", "n", "tools"])
    assert [violation.field for violation in raised.value.fields] == ["spec.sampling.n", "spec.sampling.seed"]
