"""Where an answer goes on after the text of another."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.router.overlap import LEAST, MOST, Astray, Overlap, anchor


def numbered_words(least: int) -> st.SearchStrategy[str]:
    """Texts of at least so many words, in which no long run of words stands twice."""
    words = st.lists(st.text("abcäß你", min_size=1, max_size=8), min_size=least, max_size=40)
    return words.map(lambda words: " ".join(f"{word}{number}" for number, word in enumerate(words)))


WORDS = numbered_words(2)
ANY = st.text("ab \n", min_size=1, max_size=200)
"""Texts that repeat themselves all the time."""


def whole(sent: str, answer: str, *, exact: bool, piece: int = 3) -> str:
    """What the caller has in the end, the answer coming in pieces."""
    overlap, said = Overlap(sent, exact=exact), ""
    for at in range(0, len(answer), piece):
        said += answer[at : at + piece]
        if (found := overlap.joint(said, over=False)) is not None:
            return sent + said[found:] + answer[at + piece :]
        assert len(said.lstrip()) <= len(sent)
    found = overlap.joint(said, over=True)
    assert found is not None
    return sent + said[found:]


@st.composite
def cuts(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[str, str]:
    """A text, cut somewhere."""
    text = draw(texts)
    at = draw(st.integers(1, len(text)))
    return text[:at], text[at:]


@st.composite
def anchored_cuts(draw: st.DrawFn) -> tuple[str, str]:
    """A text, cut where enough of it was sent for an exact continuation to be believed."""
    text = draw(numbered_words(12))
    at = draw(st.sampled_from([at for at in range(1, len(text) + 1) if Overlap(text[:at], exact=True).exact]))
    return text[:at], text[at:]


@given(anchored_cuts(), st.integers(1, 9))
def test_an_exact_continuation_is_taken_whole(cut: tuple[str, str], piece: int) -> None:
    sent, rest = cut
    assert whole(sent, rest, exact=True, piece=piece) == sent + rest


@given(cuts(ANY), WORDS)
def test_of_a_text_that_is_too_short_or_too_alike_nobody_is_believed_to_go_on_without_an_overlap(
    cut: tuple[str, str], answer: str
) -> None:
    sent, _ = cut
    if anchor(sent) in ("", sent.lstrip()):
        with pytest.raises(Astray):
            whole(sent, f"Well: {answer}", exact=True)


@given(cuts(WORDS), st.booleans(), st.data(), st.integers(1, 9))
def test_repeated_ends_are_removed(cut: tuple[str, str], exact: bool, data: st.DataObject, piece: int) -> None:
    sent, rest = cut
    repeated = data.draw(st.integers(len(anchor(sent)), len(sent)))
    assume(anchor(sent) and not sent[-repeated].isspace())
    assert whole(sent, sent[-repeated:] + rest, exact=exact, piece=piece) == sent + rest


@given(cuts(WORDS), st.booleans(), st.integers(1, 9), st.sampled_from(["", "\n", "  "]))
def test_an_answer_that_starts_over_word_by_word_goes_on_where_it_was_cut(
    cut: tuple[str, str], exact: bool, piece: int, lead: str
) -> None:
    sent, rest = cut
    assert whole(sent, lead + sent + rest, exact=exact, piece=piece) == sent + rest


@given(cuts(ANY), st.data(), st.integers(1, 9))
def test_in_a_text_that_repeats_itself_what_was_asked_to_be_repeated_is_removed(
    cut: tuple[str, str], data: st.DataObject, piece: int
) -> None:
    sent, rest = cut
    end = anchor(sent)
    assume(end)
    assert whole(sent, end + rest, exact=False, piece=piece) == sent + rest


@given(cuts(ANY), ANY, st.booleans())
def test_what_was_given_stays_and_nothing_is_put_together_that_the_answer_did_not_say(
    cut: tuple[str, str], answer: str, exact: bool
) -> None:
    sent, _ = cut
    try:
        text = whole(sent, answer, exact=exact)
    except Astray:
        return
    assert text.startswith(sent)
    assert answer.endswith(text[len(sent) :])
    if not Overlap(sent, exact=exact).exact:
        assert answer.lstrip().endswith(anchor(sent) + text[len(sent) :])


@given(cuts(WORDS), WORDS)
def test_an_answer_in_other_words_is_none_that_goes_on(cut: tuple[str, str], other: str) -> None:
    sent, _ = cut
    answer = f"Well: {other}"
    with pytest.raises(Astray):
        whole(sent, answer, exact=False)


@pytest.mark.parametrize("exact", [True, False])
def test_an_answer_that_starts_over_and_changes_its_mind_is_none_that_goes_on(exact: bool) -> None:
    sent = "The parcel was sent on Monday and will come on Wednesday, "
    with pytest.raises(Astray):
        whole(sent, "The parcel was sent on Monday but it was lost.", exact=exact)


def test_a_repeated_opening_in_a_text_full_of_them_is_no_new_start() -> None:
    sent = "- parcel of the customer: lost\n- parcel of the customer: found\n"
    assert whole(sent, "- parcel of the customer: sold\n", exact=True).endswith(
        "found\n- parcel of the customer: sold\n"
    )


def test_a_few_words_said_twice_are_no_overlap() -> None:
    sent = "it is what it is, and nothing was ever what it was: it is"
    assert whole(sent, " what it is", exact=True) == f"{sent} what it is"


def test_an_answer_that_had_ended_has_no_more_to_say() -> None:
    sent = "The parcel was sent from Berlin on Monday."
    assert whole(sent, "", exact=True) == sent
    assert whole(sent, sent, exact=False) == sent
    with pytest.raises(Astray):
        whole(sent, "", exact=False)


@given(cuts(WORDS))
def test_an_anchor_is_an_end_that_stands_once(cut: tuple[str, str]) -> None:
    sent, _ = cut
    end = anchor(sent)
    assert sent.endswith(end)
    assert sent.find(end) == len(sent) - len(end)
    assert len(end) >= min(LEAST, len(sent.lstrip()))


def test_a_long_text_of_one_word_has_no_anchor() -> None:
    assert anchor("ha " * MOST) == ""
    with pytest.raises(Astray):
        whole("ha " * MOST, "ha ha ha! ", exact=False)
