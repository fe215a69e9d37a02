"""How long answers usually are."""

from __future__ import annotations

import random

from services.cloud_proxy.expectation import FEW, USUAL, Expectation


def test_who_has_few_answers_is_taken_for_like_all_and_nobody_knows_at_first() -> None:
    expectation = Expectation()
    assert expectation.tokens("a", "t", 1024) == 1024
    for _ in range(FEW):
        expectation.learn("b", "t", 100)
    assert 100 <= expectation.tokens("a", "t", 1024) <= 120
    assert expectation.tokens("a", "other", 1024) == 1024


def test_nine_answers_of_ten_are_no_longer_than_expected_and_the_guess_is_near() -> None:
    rng, expectation = random.Random(1), Expectation()
    lengths = [round(rng.lognormvariate(5, 0.8)) for _ in range(5000)]
    for length in lengths:
        expectation.learn("a", "t", length)
    expected = expectation.tokens("a", "t", 1)
    within = sum(length <= expected for length in lengths) / len(lengths)
    assert USUAL - 0.03 <= within <= USUAL + 0.05


def test_what_is_usual_changes_with_the_answers() -> None:
    expectation = Expectation()
    for tokens in (1000, 10):
        for _ in range(2000):
            expectation.learn("a", "t", tokens)
    assert expectation.tokens("a", "t", 1) <= 12


def test_an_empty_answer_counts_as_one_token() -> None:
    expectation = Expectation()
    for _ in range(FEW):
        expectation.learn("a", "t", 0)
    assert expectation.tokens("a", "t", 1024) == 1


def test_only_so_many_are_remembered_those_asked_for_last() -> None:
    expectation = Expectation(max_known=10)
    for tenant in range(100):
        for _ in range(FEW):
            expectation.learn(str(tenant), "t", 50)
    assert repr(expectation) == "<Expectation 10 known>"
    assert expectation.tokens("99", "t", 7) >= 50
