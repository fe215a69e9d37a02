from __future__ import annotations

import time
from typing import Any

import pytest

from services.validator.extraction import candidates


def values(answer: str) -> list[Any]:
    return [found.value for found in candidates(answer, max_depth=64) if not found.problem]


def broken(answer: str) -> list[str]:
    return [found.text for found in candidates(answer, max_depth=64) if found.problem]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (' \n{"a": 1}\n', [{"a": 1}]),
        ("42", [42]),
        ('"yes"', ["yes"]),
        ('```json\n{"a": 1}\n```', [{"a": 1}]),
        ("```\n42\n```", [42]),
        ('~~~\n{"a": 1}\n~~~', [{"a": 1}]),
        ('Sure!\n\n````\n{"a": "```"}\n````\nBye', [{"a": "```"}]),
        ('```json\n{"a": 1}', [{"a": 1}]),
        ('The answer is {"a": {"b": [1]}}, as asked.', [{"a": {"b": [1]}}]),
        ('In [1] and [see below] {"a": 1}', [[1], {"a": 1}]),
        ('A set {x} and [link](url): {"a": "}"}.', [{"a": "}"}]),
        ('First {"a": 1}, then {"a": 2}', [{"a": 1}, {"a": 2}]),
        ("\ufeff42", [42]),
        ("\u00a0[1]\u200b", [[1]]),
        ("<think>[1]</think>[2]", [[2]]),
        ('"[1]"', ["[1]", [1]]),
        ('One {"a": 1}\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ("no JSON here", []),
        ("", []),
    ],
)
def test_json_is_found_alone_in_fences_and_in_prose(answer: str, found: list[Any]) -> None:
    seen = values(answer)
    assert [value for index, value in enumerate(seen) if value not in seen[:index]] == found


def test_a_whole_answer_is_the_only_candidate() -> None:
    answer = '{"text": "```json\\n{\\"a\\": 1}\\n```", "more": {"a": 1}}'
    (only,) = candidates(answer, max_depth=64)
    assert only.whole
    assert only.text == answer


def test_what_is_in_fences_comes_before_what_is_in_prose() -> None:
    assert values('For example {"a": 1}.\n```json\n{"a": 2}\n```')[0] == {"a": 2}


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": {"b": 1},}',
        '{"a": {"b": 1}, "c": ',
        '{"a": {"b": 1}, "c": [1, 2',
        '{a: {"b": 1}}',
        "{'a': {\"b\": 1}}",
        '[{"b": 1}, {"b": 2',
        '{\n// a comment\n"a": {"b": 1}}',
    ],
)
def test_a_good_object_inside_a_broken_one_is_not_taken(answer: str) -> None:
    assert values(answer) == []
    assert broken(answer) == [answer.strip()]


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": 1}, "b": 2}',
        '{"a": 1}, "b" "c"}',
        '[{"a": 1}}, {"b": 2}]',
        '{"a": [1, 2}, "b": [3]}',
        "{\u201ca\u201d: 1}",
        '{\\"a\\": 1}',
        '{\u00a0"a": 1}',
        "(1, 2)",
        '"{"a": 1}"',
    ],
)
def test_what_is_meant_as_json_is_seen_to_be_broken(answer: str) -> None:
    assert broken(answer)[0] == answer


def test_after_a_broken_object_that_is_closed_the_search_goes_on() -> None:
    answer = 'First {"a": 1,} then {"a": 2}'
    assert broken(answer) == ['{"a": 1,}']
    assert values(answer) == [{"a": 2}]


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 1_000_000,
        "[x" * 500_000,
        "{" * 1_000_000,
        '{"a' * 300_000,
        '{"a":' * 200_000,
        "`" * 1_000_000,
        "```\n" * 250_000,
        '{"' + "\\" * 1_000_000,
        "{" + " " * 1_000_000,
        "{" + "a" * 1_000_000,
        "[1]" * 300_000,
        " \t" * 500_000 + "x",
        "<think>" * 150_000,
        "<think>\n" * 150_000,
        "</think>\n" * 110_000,
        "</think>" + " " * 1_000_000 + "x",
        "<|channel|>final" * 70_000,
        '{},"' * 250_000,
        '{},"a":' * 140_000,
    ],
)
def test_a_hostile_answer_takes_time_linear_in_its_length(answer: str) -> None:
    started = time.process_time()
    for _ in candidates(answer, max_depth=64):
        pass
    assert time.process_time() - started < 20  # quadratic is minutes
