"""Records on their way: told as soon as they are whole and accepted, no sooner, and however the text is cut."""

from __future__ import annotations

import json
import random
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validator.judgement import Judge
from services.validator.schema import Schema
from services.validator.settings import JudgementSettings
from services.validator.verdict import Constraint
from services.validator.watch import Watch

NAME = {"type": "object", "properties": {"name": {"type": "string", "minLength": 2}}, "required": ["name"]}
ROWS = {"type": "array", "items": NAME}
FORM = {"type": "object", "properties": {"total": {"type": "integer"}, "rows": ROWS}, "required": ["rows", "end"]}

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS | st.sampled_from(["a", "ab", 1, 2.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc") | st.text(), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
WORDS = st.sampled_from(["allOf", "anyOf", "oneOf"])
DEFS = {"text": {"type": "string", "maxLength": 3}}
SCHEMAS = st.recursive(
    st.booleans()
    | st.builds(lambda kinds: {"type": sorted(kinds)}, st.sets(KINDS, min_size=1))
    | st.builds(lambda told: {"enum": told}, st.lists(VALUES, min_size=1, max_size=3))
    | st.builds(lambda told: {"const": told}, VALUES)
    | st.sampled_from(
        [
            *({"minLength": 1}, {"maxLength": 1}, {"pattern": "^a"}, {"minimum": 1}, {"multipleOf": 2}),
            *({"required": ["a"]}, {"minItems": 1}, {"maxItems": 1}, {"uniqueItems": True}, {"maxProperties": 1}),
            {"$ref": "#/$defs/text"},
        ]
    ),
    lambda inner: (
        st.builds(lambda word, parts: {word: parts}, WORDS, st.lists(inner, min_size=1, max_size=3))
        | st.builds(lambda part: {"not": part}, inner)
        | st.builds(lambda a, rest: {"properties": {"a": a}, "additionalProperties": rest}, inner, inner)
        | st.builds(lambda a, rest: {"prefixItems": [a], "items": rest}, inner, inner)
        | st.builds(lambda a, b: {"if": a, "then": b}, inner, inner)
    ),
    max_leaves=4,
)


def watching(schema: Any, *, repair: bool = True) -> Watch:
    constraint = Constraint("json_schema", json.dumps(schema), repair=repair)
    return Judge(JudgementSettings()).watch(constraint, records=True)


def told(schema: Any, text: str, cuts: random.Random | None = None, *, repair: bool = True) -> list[tuple[int, int]]:
    """What is told of the records of `text`, which comes in pieces where `cuts` says so, else one by one."""
    watch, at, found = watching(schema, repair=repair), 0, [(0, 0)]
    while at < len(text):
        size = cuts.randint(1, 9) if cuts else 1
        over = watch.take(text[at : at + size]) is not None
        at += size
        if watch.records != found[-1]:
            found.append(watch.records)
        if over:
            break
    return found[1:]


@given(
    SCHEMAS,
    st.lists(VALUES, max_size=5),
    st.randoms(use_true_random=False),
    st.sampled_from(["root", "property", "reference"]),
    st.sampled_from(["", "\n ", "```json\n"]),
)
def test_records_are_exactly_the_items_that_are_accepted_however_the_text_is_cut(
    item: Any, items: list[Any], cuts: random.Random, form: str, lead: str
) -> None:
    array: Any = {"type": "array", "items": item}
    answer: Any = items
    if form == "property":
        array = {"type": "object", "properties": {"n": {"type": "integer"}, "rows": array}}
        answer = {"n": 1, "rows": items, "z": 2}
    elif form == "reference":
        array = {"$ref": "#/$defs/all", "$defs": {"all": array}}
    array["$defs"] = {**array.get("$defs", {}), **DEFS}
    alone = Schema(json.dumps({"allOf": [item], "$defs": DEFS}))
    accepted = list(takewhile(alone.accepts, items))
    text = lead + json.dumps(answer, ensure_ascii=cuts.random() < 0.5, indent=cuts.choice([None, 1]))
    heard = told(array, text, cuts)
    assert [count for count, _ in heard] == sorted({count for count, _ in heard})
    assert (heard[-1][0] if heard else 0) == len(accepted)
    closing = "]}" if form == "property" else "]"
    for count, end in heard:
        begun = json.loads(text[len(lead) : end] + closing)
        assert (begun["rows"] if form == "property" else begun) == items[:count]


def test_a_record_is_told_with_its_last_character() -> None:
    text = '[{"name": "Ann"}, {"name": "Bob"}]'
    assert told(ROWS, text) == [(1, len('[{"name": "Ann"}')), (2, len(text) - 1)]
    numbers = {"type": "array", "items": {"type": "integer"}}
    watch = watching(numbers)
    watch.take("[1, 2")
    assert watch.records == (1, 2), "2 may go on"
    watch.take("3 ")
    assert watch.records == (2, 6)


def test_a_text_is_told_once_its_last_quote_was_meant() -> None:
    texts = {"type": "array", "items": {"type": "string"}}
    watch = watching(texts)
    watch.take('["he said "')
    assert watch.records == (0, 0)
    watch.take('hi" to all", "b"]')
    assert watch.records == (0, 0)
    assert told(texts, '["a", "b"]') == [(1, 4), (2, 9)]


def test_of_an_object_the_items_of_its_only_array_are_records() -> None:
    text = '{"note": [1, 2], "total": 7, "rows": [{"name": "Ann", "tags": ["x", "y"]}], "more": [3]}'
    assert told(FORM, text) == [(1, text.index("]}], ") + 2)]


def test_a_record_that_is_refused_ends_the_answer_and_those_before_it_stay() -> None:
    watch = watching(ROWS)
    assert watch.take('[{"name": "Ann"}, {"name": ') is None
    verdict = watch.take("7")
    assert verdict is not None
    assert [finding.path for finding in verdict.findings] == ["/1/name"]
    assert watch.records == (1, 16)


@pytest.mark.parametrize(
    "text",
    [
        'Here they are: [{"name": "Ann"}]',
        "[{'name': 'Ann'}]",
        '{"rows": [{"name": "Ann"}]}',
        '{"name": "Ann"}',
    ],
)
def test_prose_broken_json_and_other_values_have_no_records(text: str) -> None:
    assert told(ROWS, text) == []


def test_where_it_breaks_no_more_records_are_told() -> None:
    assert told(ROWS, '[{"name": "Ann"}, {name: "Bob"}, {"name": "Cid"}]') == [(1, 16)]


@pytest.mark.parametrize(
    "schema",
    [{"type": "object"}, {}, {"properties": {"a": ROWS, "b": ROWS}}, {"type": "array", "items": {"$ref": "#x"}}],
)
def test_without_one_array_in_the_schema_there_are_no_records(schema: Any) -> None:
    assert told(schema, '[{"name": "Ann"}]') == []
    assert told(schema, '{"a": [1]}') == []


def test_what_only_the_end_tells_is_left_to_it() -> None:
    few = {**ROWS, "minItems": 3, "uniqueItems": True}
    assert [count for count, _ in told(few, '[{"name": "Ann"}, {"name": "Ann"}]')] == [1, 2]


def test_which_array_holds_them_follows_from_the_schema_as_it_was_written() -> None:
    rows = (("https://x.example/rows", json.dumps(ROWS)),)
    settings = JudgementSettings()
    for written, text, count in (
        ({"$ref": "https://x.example/rows"}, '[{"name": "Ann"},', 0),
        ({"properties": {"a": ROWS, "b": {"$ref": "https://x.example/rows"}}}, '{"a": [{"name": "Ann"},', 1),
    ):
        constraint = Constraint("json_schema", json.dumps(written), schemas=rows)
        watch = Judge(settings).watch(constraint, records=True)
        assert watch.take(text) is None
        assert watch.records[0] == count
