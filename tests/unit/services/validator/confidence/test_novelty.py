from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validator.confidence.novelty import MAX_BYTES, READ_CHARS, Reference, grams

LETTERS = [one + other for one in "abcdefghijklmnopqrstuvwxyz" for other in "abcdefghij"]
KNOWN = ["Label this message: my invoice 4711 is wrong", "Label this message: the parcel is late"]


def test_what_was_answered_well_before_is_not_novel() -> None:
    assert Reference.of(KNOWN).novelty(KNOWN[0]) == 0


def test_numbers_and_case_are_no_news() -> None:
    assert Reference.of(KNOWN).novelty("label this message: My invoice 9 is wrong") == 0


def test_the_fewer_known_sequences_a_prompt_has_the_more_novel_it_is() -> None:
    reference = Reference.of(KNOWN)
    near, far = reference.novelty("Label this message: the invoice is late"), reference.novelty("What is a quark?")
    assert near is not None
    assert far is not None
    assert 0 < near < 0.5 < far <= 1


def test_of_a_prompt_without_words_nothing_is_known() -> None:
    assert Reference.of(KNOWN).novelty(" ") is None


def test_a_long_prompt_is_read_at_both_ends_and_no_further() -> None:
    assert sum(1 for _ in grams("a b " * 10**6)) <= 2 * (READ_CHARS + 1)
    assert set(grams("a" + " b" * READ_CHARS + " c")) >= set(grams("b c"))


@given(st.lists(st.text(max_size=40), max_size=5))
def test_a_reference_is_the_same_after_it_was_written(prompts: list[str]) -> None:
    reference = Reference.of(prompts)
    again = Reference.read(reference.written())
    assert again.written() == reference.written()
    assert all(again.novelty(prompt) in (0, None) for prompt in prompts)


def test_a_reference_grows_with_what_is_known_so_that_it_can_still_tell_what_is_not() -> None:
    reference = Reference.of(" ".join(f"{a}{b}{c}" for b in "abcdefghij" for c in "klmnopqrst") for a in LETTERS)
    assert reference.fill < 0.13
    assert (reference.novelty("zzz yyy xxx www") or 0) > 0.5


def test_no_word_of_a_prompt_can_be_read_in_a_reference() -> None:
    assert "canary" not in Reference.of(["canary in a mine"]).written()


@pytest.mark.parametrize("text", ["%", "aGVsbG8=", "", Reference(b"\0" * 2 * MAX_BYTES).written()])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Reference.read(text)
