from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.validator.rules.length import LengthSettings, Measure, count, length
from services.validator.verdict import FindingKind

TEXT = st.text(alphabet="ab. \n\t", max_size=40)


def rule(**bounds: int) -> Any:
    return length(LengthSettings.model_validate({"kind": "length", **bounds}))


@pytest.mark.parametrize(
    ("text", "measure", "number"),
    [
        ("  two words \n", "words", 2),
        ("  two words \n", "chars", 9),
        ("", "words", 0),
        (" \n ", "lines", 0),
        ("a\n\nb\n", "lines", 3),
        ("One. Two! Three?", "sentences", 3),
        ("It costs 3.50 euros. Right", "sentences", 2),
        ("Dr. Meier of St. Gallen met J. Smith.", "sentences", 1),
        ("Ask e.g. the clerk", "sentences", 1),
        ("1. Open it.\n2. Close it.", "sentences", 2),
        ("It was 1999. Then came more.", "sentences", 2),
        ('He said "no." Then he left.', "sentences", 2),
        ("你好。再见\uff01", "sentences", 2),
        ("", "sentences", 0),
    ],
)
def test_a_text_is_measured_as_a_reader_would(text: str, measure: Measure, number: int) -> None:
    assert count(text, measure) == number


def test_an_answer_outside_the_bounds_is_told_how_long_it_is_and_what_is_wanted() -> None:
    bounded = rule(min_words=3, max_words=4, max_lines=1)
    assert bounded.findings("one two three") == ()
    (short,) = bounded.findings("one two")
    assert short.kind is FindingKind.LENGTH
    assert short.message == "the answer has 2 words and is too short: give at least 3 and at most 4 words"
    assert [finding.message.partition(" and ")[0] for finding in bounded.findings("a b c\nd e")] == [
        "the answer has 5 words",
        "the answer has 2 lines",
    ]
    assert bounded.description == "Answer with at least 3 and at most 4 words, at most 1 lines."


@given(TEXT, st.sampled_from(["chars", "words", "lines"]), st.integers(0, 12), st.lists(st.integers(1, 6)))
def test_an_answer_on_its_way_is_too_long_exactly_where_its_end_would_be(
    text: str, measure: Measure, most: int, cuts: list[int]
) -> None:
    bounded = rule(**{f"max_{measure}": most})
    reader = bounded.reader()
    early = None
    at = 0
    for size in [*cuts, len(text)]:
        early = early or reader.take(text[at : at + size])
        at += size
    assert (early is None) == (bounded.findings(text) == ())


@given(TEXT, TEXT)
def test_what_follows_never_makes_an_answer_shorter(text: str, more: str) -> None:
    measures: list[Measure] = ["chars", "words", "lines"]
    assert all(count(text, measure) <= count(text + more, measure) for measure in measures)


@pytest.mark.parametrize("bounds", [{}, {"min_words": 3, "max_words": 2}, {"max_words": -1}, {"max_word": 3}])
def test_bounds_that_say_nothing_or_contradict_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        rule(**bounds)
