"""What templates take is read off the templates."""

from __future__ import annotations

from typing import Any

import pytest

from services.local_engine import chat_template
from spillway import v1
from spillway.errors import ConstraintUnsupported, SchemaInvalid

QWEN = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking is defined and not enable_thinking %}x{% endif %}"
DEEPSEEK = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% if thinking %}<think>{% endif %}"
LEVELS = "{% if not reasoning_effort %}{% set reasoning_effort = 'medium' %}{% endif %}{{ reasoning_effort }}"
OWN_NONE = "{% if reasoning_effort == 'none' %}x{% endif %}"
NEITHER = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
NONE, LOW, HIGH = v1.REASONING_EFFORT_NONE, v1.REASONING_EFFORT_LOW, v1.REASONING_EFFORT_HIGH


class Tokenizer:
    def __init__(self, template: Any) -> None:
        self.chat_template = template


def told(template: Any, **fields: Any) -> dict[str, Any]:
    return chat_template.arguments(v1.GenerationSpec(**fields), Tokenizer(template))


@pytest.mark.parametrize(
    ("template", "effort", "expected"),
    [
        (QWEN, NONE, {"enable_thinking": False}),
        (QWEN, LOW, {"enable_thinking": True}),
        (DEEPSEEK, NONE, {"thinking": False}),
        (DEEPSEEK, HIGH, {"thinking": True}),
        (LEVELS, LOW, {"reasoning_effort": "low"}),
        (OWN_NONE, NONE, {"reasoning_effort": "none"}),
        (QWEN + LEVELS, HIGH, {"enable_thinking": True, "reasoning_effort": "high"}),
        (QWEN + LEVELS, NONE, {"enable_thinking": False}),
        (QWEN, v1.REASONING_EFFORT_UNSPECIFIED, {}),
        (NEITHER, NONE, {}),
        (None, NONE, {}),
    ],
)
def test_effort_is_told_by_the_names_that_the_template_looks_at(
    template: str, effort: v1.ReasoningEffort.ValueType, expected: dict[str, Any]
) -> None:
    assert told(template, reasoning_effort=effort) == expected


@pytest.mark.parametrize(("template", "effort"), [(NEITHER, HIGH), (None, LOW), (LEVELS, NONE), ("{% if", HIGH)])
def test_effort_that_the_template_has_no_word_for_is_refused(
    template: str, effort: v1.ReasoningEffort.ValueType
) -> None:
    with pytest.raises(ConstraintUnsupported) as refusal:
        told(template, reasoning_effort=effort)
    assert refusal.value.fields[0].field == "spec.reasoning_effort"


def test_tools_are_told_as_vllms_own_server_tells_them() -> None:
    tools = [v1.Tool(name="a", description="b", parameters_json_schema='{"type": "object"}'), v1.Tool(name="c")]
    assert told(QWEN, tools=tools)["tools"] == [
        {"type": "function", "function": {"name": "a", "description": "b", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "c", "description": None, "parameters": None}},
    ]


def test_a_template_of_its_own_for_tools_is_the_one_that_is_looked_at() -> None:
    both = {"default": NEITHER, "tool_use": QWEN}
    assert chat_template.of(Tokenizer(both), tools=True).knows_tools
    assert not chat_template.of(Tokenizer(both)).knows_tools


def test_a_template_that_knows_no_tools_is_given_none() -> None:
    with pytest.raises(ConstraintUnsupported) as refusal:
        told(DEEPSEEK, tools=[v1.Tool(name="a")])
    assert refusal.value.fields[0].field == "spec.tools"


@pytest.mark.parametrize("schema", ["[", "[]", "3"])
def test_parameters_that_are_no_schema_are_refused_by_field(schema: str) -> None:
    with pytest.raises(SchemaInvalid) as refusal:
        told(QWEN, tools=[v1.Tool(name="a"), v1.Tool(name="b", parameters_json_schema=schema)])
    assert refusal.value.fields[0].field == "spec.tools[1].parameters_json_schema"
