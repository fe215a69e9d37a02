from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.validator.rules.forbidden import Forbidden, ForbiddenSettings, folded, forbidden
from services.validator.verdict import FindingKind


def rule(**said: Any) -> Forbidden:
    return forbidden(ForbiddenSettings.model_validate({"kind": "forbidden", **said}))


@pytest.mark.parametrize(
    ("word", "text", "is_there"),
    [
        ("refund", "No REFUND today", True),
        ("refund", "refunds and prerefund", False),
        ("café", "the CAFE\u0301 is closed", True),
        ("cafe", "the Café is closed", True),
        ("straße", "Hauptstrasse 1, STRASSE 2", True),
        ("credit card", "your credit-\n card", True),
        ("credit card", "no credit. Card games", False),
        ("don't", "we don\u2019t", True),
        ("secret", "se\u00adcr\u200bet", True),
        ("a b c", "a a b c", True),
        ("a b c", "a b", False),
        ("naïve", "\uff2e\uff21\uff29\uff36\uff25", True),
    ],
)
def test_words_are_found_whole_in_any_case_with_any_accents(word: str, text: str, is_there: bool) -> None:
    found = rule(words=[word]).findings(text)
    assert bool(found) is is_there
    assert all(one.kind is FindingKind.FORBIDDEN and repr(word) in one.message for one in found)


def test_patterns_and_sensitive_data_are_told_without_what_they_matched() -> None:
    told = rule(patterns=[r"\bACME-\d+\b"], sensitive=["card", "email"]).findings(
        "ACME-77, 4111 1111 1111 1111, call +44 20 7946 0958"
    )
    assert [one.message for one in told] == [
        r"the answer has what the regular expression \bACME-\d+\b forbids; leave it out",
        "the answer has sensitive data of the kind card; leave it out",
    ]


WORDS = st.lists(st.sampled_from(["ab", "abc", "É", "c", " ", ".", "-", "\u0301", "\u2019", "  "]), max_size=14)


@given(WORDS, st.lists(st.integers(1, 3), max_size=8))
def test_a_forbidden_word_is_heard_as_soon_as_it_is_whole_and_never_wrongly(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    strict = rule(words=["ab c", "e", "c c abc"])
    reader = strict.reader()
    early = None
    at = 0
    for size in [*cuts, len(text)]:
        early = early or reader.take(text[at : at + size])
        at += size
    if early is not None:
        assert early in strict.findings(text)
    elif strict.findings(text):  # it is the last word, which might have gone on
        assert reader.take(" ") is not None


@given(st.text(max_size=8), st.text(max_size=8))
def test_what_is_folded_in_pieces_is_the_same_as_what_is_folded_whole(one: str, other: str) -> None:
    assert folded(one) + folded(other) == folded(one + other)


@pytest.mark.parametrize(
    "said", [{}, {"words": ["--"]}, {"patterns": ["("]}, {"patterns": ["(?=a)"]}, {"sensitive": ["names"]}]
)
def test_what_cannot_be_forbidden_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rule(**said)


def test_many_words_over_a_long_text_take_time_in_proportion() -> None:
    strict = rule(words=[f"word{number} again" for number in range(2_000)])
    assert strict.findings("word7 once " * 100_000) == ()
