"""Answers on their way: what the end would accept is not refused before it, however it is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.validator.judgement import Judge
from services.validator.settings import JudgementSettings
from services.validator.verdict import Answer, Constraint, Decision

OBJECT = {"type": "object"}
DRAFT4 = "http://json-schema.org/draft-04/schema#"
DRAFT7 = "http://json-schema.org/draft-07/schema#"
BASED = {  # the reference is to what is beside it, not to what has the same name above
    "$schema": DRAFT4,
    "definitions": {"d": {"type": "string"}},
    "properties": {
        "a": {
            "id": "http://example.com/a",
            "definitions": {"d": {"type": "integer"}},
            "properties": {"b": {"$ref": "#/definitions/d"}},
        }
    },
}
LONG = {"properties": {"a": {"minLength": 12}}}


def refused_after(schema: Any, text: str, *, size: int = 1, repair: bool = True) -> int | None:
    """Characters that had come when `text` was refused; None where that was left to its end."""
    watch = Judge(JudgementSettings()).watch(Constraint("json_schema", json.dumps(schema), repair=repair))
    for at in range(0, len(text), size):
        if watch.take(text[at : at + size]) is not None:
            return at + size
    return None


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (OBJECT, '[1] says {"a": 1}'),
        (OBJECT, '[1, 2] say {"a": 1}'),
        (OBJECT, '[this is it] {"a": 1}'),
        ({"$schema": DRAFT4, "propertyNames": {"maxLength": 1}}, '{"abc": 2}'),
        ({"$schema": DRAFT4, "properties": {"a": {"const": "x"}}}, '{"a": "y"}'),
        ({"$schema": DRAFT7, "prefixItems": [{"type": "string"}]}, "[1]"),
        (BASED, '{"a": {"b": 1}}'),
        ({"properties": {"a%20b": {}, "a b": {"minLength": 4}}}, '{"a%20b": "x"}'),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_what_is_accepted_whole_is_never_refused_on_its_way(schema: Any, text: str, size: int) -> None:
    judge, constraint = Judge(JudgementSettings()), Constraint("json_schema", json.dumps(schema))
    assert judge.judge(constraint, [Answer(text)])[0].decision in (Decision.ACCEPT, Decision.REPAIR)
    assert refused_after(schema, text, size=size) is None


def test_a_quote_out_of_place_is_left_to_who_mends() -> None:
    text = '{"a": "he said "hi" to all of them"}'
    assert refused_after(LONG, text) is None
    assert refused_after(LONG, text, repair=False) == len('{"a": "he said "')
    assert refused_after(LONG, '{"a": "hi", "b": 1}') == len('{"a": "hi",')


def test_names_that_a_uri_cannot_hold_are_watched_as_others_are() -> None:
    for name in ("a b", "naïve", 'a"b'):
        text = json.dumps({name: "x", "b": 1}, ensure_ascii=False)
        assert refused_after({"properties": {name: {"minLength": 4}}}, text) == text.index(",") + 1


def test_what_no_answer_can_satisfy_is_left_to_the_end_which_says_so() -> None:
    assert refused_after(False, '{"a": 1}') is None


@pytest.mark.parametrize(
    ("constraint", "piece"),
    [
        (Constraint("choices", choices=("yes",)), " "),
        (Constraint("json_schema", '{"type": "array", "items": {"type": "number"}}'), "1"),
        (Constraint("json_schema", '{"enum": [["a"]]}'), "\t"),
    ],
)
def test_what_comes_a_little_at_a_time_is_read_once(constraint: Constraint, piece: str) -> None:
    watch = Judge(JudgementSettings()).watch(constraint)
    for _ in range(300_000):  # would take minutes, were all of it looked at again each time
        if watch.take(piece) is not None:
            break


def test_white_space_within_a_choice_counts_and_around_it_does_not() -> None:
    judge = Judge(JudgementSettings())
    for answer, refused in (("  not \n", False), ("not  sure", True), ("not sure \t ", False), ("not sure .", True)):
        watch = judge.watch(Constraint("choices", choices=("not sure ", "yes")))
        assert any(watch.take(char) for char in answer) is refused, answer


def test_a_schema_of_more_parts_than_can_be_compiled_on_the_way_is_left_to_the_end() -> None:
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    for _ in range(60):
        wide = {f"p{number}": {"minimum": number} for number in range(20)}
        schema = {"required": ["a"], "properties": {"a": schema, **wide}}
    watch = Judge(JudgementSettings()).watch(Constraint("json_schema", json.dumps(schema)))
    assert watch.take('{"a": ' * 60 + '"x"' + "}" * 60) is None
    assert "off" in repr(watch)


def test_an_answer_that_the_library_would_ponder_for_long_is_left_to_the_end() -> None:
    one_of_many = {"contains": {"anyOf": [{"const": {"a": -number}} for number in range(1, 1200)]}}
    text = json.dumps([{"a": number} for number in range(20_000)])
    watch = Judge(JudgementSettings()).watch(Constraint("json_schema", json.dumps(one_of_many)))
    assert watch.take(text) is None
    assert "off" in repr(watch)
