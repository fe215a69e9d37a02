"""A spec is rewritten wherever it is read, and stays what its target understands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.router.prompt import read_prompt
from services.router.rewriting import FIXED, Fixed, rewrite
from spillway import v1
from tests.unit.services.router.test_cache_key import leaves

ANN = "ann@example.org"


def hidden(text: str) -> str:
    return text.replace(ANN, "[EMAIL_1]")


def gathered(spec: v1.GenerationSpec, *, whole: bool) -> set[str]:
    found: set[str] = set()

    def put(text: str) -> str:
        found.add(text)
        return text

    rewrite(spec, put, whole=whole)
    return found


def calling(arguments: str) -> v1.GenerationSpec:
    part = v1.Part(tool_call=v1.ToolCall(id="c1", name="mail", arguments=arguments))
    return v1.GenerationSpec(chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_ASSISTANT, parts=[part])]))


def arguments(spec: v1.GenerationSpec) -> str:
    return spec.chat.messages[0].parts[0].tool_call.arguments


def test_what_is_inspected_is_what_is_rewritten_whatever_field_it_stands_in() -> None:
    for path, spec in leaves(v1.GenerationSpec()):
        prompt = read_prompt(spec)
        if not prompt.unreadable:
            assert gathered(spec, whole=True) == set(prompt.texts), path


def test_every_text_is_rewritten_or_may_not_be_changed() -> None:
    changed, fixed = set(), set()
    for path, spec in leaves(v1.GenerationSpec()):
        if "x" not in read_prompt(spec).texts:
            continue
        try:
            rewrite(spec, lambda text: text.replace("x", "[EMAIL_1]"))
        except Fixed:
            fixed.add(path)
            continue
        assert read_prompt(spec).texts == ("[EMAIL_1]",), path
        changed.add(path)
    assert {
        "chat.messages.parts.text",
        "chat.messages.name",
        "stop.strings",
        "text.suffix",
        "tools.description",
    } <= changed
    assert len(fixed) == len(FIXED) - 1 and "tools.name" in fixed, "keys of extra are another test's"
    assert not changed & fixed


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ({"to": ANN, "count": 1}, {"to": "[EMAIL_1]", "count": 1}),
        ([{ANN: [f'"{ANN}"\n']}], [{"[EMAIL_1]": ['"[EMAIL_1]"\n']}]),
    ],
)
def test_json_stays_json_and_keeps_its_shape(said: Any, left: Any) -> None:
    for written in (json.dumps(said), json.dumps(said, indent=2), json.dumps(said).replace("@", "\\u0040")):
        spec = calling(written)
        rewrite(spec, hidden)
        assert json.loads(arguments(spec)) == left
    spec = calling(untouched := '{"to":  "bob\\u0021", "of": 1e5}')
    rewrite(spec, hidden)
    assert arguments(spec) == untouched


def test_what_a_model_wrote_as_broken_json_is_a_text() -> None:
    spec = calling(f"{{to: {ANN}")
    rewrite(spec, hidden)
    assert arguments(spec) == "{to: [EMAIL_1]"


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (r'{"to": "ann\u0040example.org", "n": 1}', '{"to": "[EMAIL_1]", "n": 1}'),
        ("sent to ann@example.org", "sent to [EMAIL_1]"),
        ("4111111111111111", "[CARD_1]"),
        ('{"card": 4111111111111111}', '{"card": [CARD_1]}'),
    ],
)
def test_a_result_is_read_as_json_where_it_is_json_and_need_not_stay_so(content: str, left: str) -> None:
    part = v1.Part(tool_result=v1.ToolResult(tool_call_id="c1", content=content))
    spec = v1.GenerationSpec(chat=v1.Chat(messages=[v1.Message(role=v1.ROLE_TOOL, parts=[part])]))
    for whole in (False, True):
        rewrite(spec, lambda text: hidden(text).replace("4111111111111111", "[CARD_1]"), whole=whole)
    assert spec.chat.messages[0].parts[0].tool_result.content == left


def test_a_number_in_json_cannot_be_replaced() -> None:
    def put(text: str) -> str:
        return text.replace("4111111111111111", "[CARD_1]")

    spec = calling('{"card": 4111111111111111}')
    rewrite(spec, put)
    assert arguments(spec) == '{"card": 4111111111111111}'
    with pytest.raises(Fixed, match=r"ToolCall.arguments"):
        rewrite(spec, put, whole=True)
    rewrite(spec := calling('{"card": "4111111111111111"}'), put, whole=True)
    assert arguments(spec) == '{"card": "[CARD_1]"}'
    for extra in ({"card": 4111111111111111}, {"4111111111111111": True}):
        spec = v1.GenerationSpec()
        spec.extra.update(extra)
        with pytest.raises(Fixed):
            rewrite(spec, put)


def test_half_a_character_in_json_is_not_passed_on() -> None:
    with pytest.raises(Fixed):
        rewrite(calling('{"to": "\\ud800"}'), hidden)
