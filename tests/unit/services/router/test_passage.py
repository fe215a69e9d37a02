"""Passages: where a text is cut, and which pieces are about a question."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.router.passage import joined, relevance, size, spans


@given(st.text(max_size=2000), st.integers(4, 300))
def test_passages_are_the_whole_text_and_none_is_too_long(text: str, at_most: int) -> None:
    found = spans(text, at_most)
    assert "".join(text[first:last] for first, last in found) == text
    assert all(0 < size(text, span) <= at_most for span in found)


def test_a_text_is_cut_between_paragraphs_then_sentences_then_words() -> None:
    text = "One. Two.\n\nThree is longer. Four is longer too.\n\nfive-six-seven eight-nine-ten"
    cut = [text[first:last].strip() for first, last in spans(text, 24)]
    assert cut == ["One. Two.", "Three is longer.", "Four is longer too.", "five-six-seven", "eight-nine-ten"]


def test_neighbours_are_joined_up_to_a_size() -> None:
    text = "a b c d"
    assert joined(text, [(0, 2), (2, 4), (4, 6), (6, 7)], 4) == [(0, 4), (4, 7)]


def test_a_rare_word_of_the_question_counts_more_than_a_common_one() -> None:
    scores = relevance("the coolant", ["the the weather", "the coolant", "the sun", "the rain"])
    assert max(scores) == scores[1]
    assert relevance("nothing alike", ["one", "two"]) == [0.0, 0.0]
    assert relevance("", []) == []


def test_words_are_compared_without_case_and_in_languages_without_spaces() -> None:
    assert relevance("PUMP", ["a pump", "a tree"])[0] > 0
    scores = relevance("冷却泵为什么停了?", ["天气很好。", "冷却泵坏了。"])
    assert scores[1] > scores[0]
