"""From signs to a score, and what weights and calibration are fitted from."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validator.confidence.artefact import PLAIN, read
from services.validator.confidence.formula import FARTHEST, FEATURES, Formula, features, logistic
from services.validator.confidence.isotonic import AT_LEAST, isotonic
from services.validator.confidence.measure import auroc, bins, measured
from services.validator.confidence.regression import fitted
from services.validator.confidence.signs import Signs

LOGPROBS = st.floats(-20, 0)
SHARES = st.floats(0, 1)


@pytest.fixture(scope="module")
def plain() -> Formula:
    return read(PLAIN.read_bytes()).section("any", "").formula


@given(logprob=st.floats(-7.5, -0.0005))
def test_with_the_mean_alone_the_plain_score_is_the_geometric_mean_of_the_probabilities(
    plain: Formula, logprob: float
) -> None:
    signs = Signs(mean_logprob=logprob, min_logprob=2 * logprob, entropy=0.1)
    assert plain.score(signs) == pytest.approx(math.exp(logprob))


@given(judge=st.floats(0.001, 0.999))
def test_with_a_judge_alone_the_plain_score_is_the_judges(plain: Formula, judge: float) -> None:
    assert plain.score(Signs(judge=judge)) == pytest.approx(judge)


@given(mean=LOGPROBS, agreement=SHARES, lower=SHARES, judge=SHARES)
def test_agreement_never_lowers_the_plain_score_and_a_refusal_never_raises_it(
    plain: Formula, mean: float, agreement: float, lower: float, judge: float
) -> None:
    signs = Signs(mean_logprob=mean, agreement=max(agreement, lower), judge=judge)
    doubted = Signs(mean_logprob=mean, agreement=min(agreement, lower), judge=judge)
    refused = Signs(mean_logprob=mean, agreement=max(agreement, lower), judge=judge, refusal=True)
    assert 0 <= plain.score(refused) <= plain.score(signs) <= 1
    assert plain.score(doubted) <= plain.score(signs)


def test_a_refusal_that_is_sure_of_itself_is_no_right_answer(plain: Formula) -> None:
    assert plain.score(Signs(mean_logprob=-0.01, refusal=True)) < 0.05


@given(
    st.builds(
        Signs,
        mean_logprob=st.none() | LOGPROBS,
        min_logprob=st.none() | LOGPROBS,
        entropy=st.none() | st.floats(0, 10),
        agreement=st.none() | SHARES,
        novelty=st.none() | SHARES,
        refusal=st.booleans(),
        length=st.none() | st.floats(-100, 100),
        judge=st.none() | SHARES,
    )
)
def test_features_are_named_bounded_and_say_what_is_unknown(signs: Signs) -> None:
    told = features(signs)
    assert set(told) <= set(FEATURES)
    assert all(abs(value) <= 10 for value in told.values())
    assert ("no_novelty" in told) == (signs.novelty is None)
    assert "no_refusal" not in told


@pytest.mark.parametrize("sum_", [-1000.0, 0.0, 1000.0])
def test_the_logistic_function_does_not_overflow(sum_: float) -> None:
    assert logistic(sum_) + logistic(-sum_) == 1


def test_a_certain_token_has_the_farthest_odds() -> None:
    assert features(Signs(mean_logprob=0.0))["mean_logprob"] == FARTHEST


def test_between_points_a_score_is_interpolated_and_beyond_them_it_stays() -> None:
    formula = Formula(0.0, {"novelty": 1.0}, ((0.2, 0.1), (0.6, 0.5)))
    scores = [formula.score(Signs(novelty=novelty)) for novelty in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert scores == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])


@given(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=1, max_size=200))
def test_a_calibration_rises_and_is_never_certain(pairs: list[tuple[float, bool]]) -> None:
    points = isotonic([at for at, _ in pairs], [was for _, was in pairs])
    assert all(0 < share < 1 for _, share in points)
    assert list(points) == sorted(points)
    assert len({at for at, _ in points}) == len(points)
    assert [share for _, share in points] == sorted(share for _, share in points)


def test_a_calibration_finds_the_share_of_right_answers() -> None:
    chance = random.Random(1)
    sums = [chance.uniform(-3, 3) for _ in range(4000)]
    right = [chance.random() < logistic(2 * at) for at in sums]
    points = isotonic(sums, right)
    assert len(points) < len(sums) / AT_LEAST
    formula = Formula(0.0, {"novelty": 1.0}, points)
    assert all(abs(formula.score(Signs(novelty=at)) - logistic(2 * at)) < 0.12 for at in (-2.0, -0.5, 0.5, 2.0))


def test_weights_are_found_again_in_what_they_made() -> None:
    chance = random.Random(2)
    rows = [[1.0, chance.gauss(0, 1), chance.gauss(0, 1)] for _ in range(4000)]
    right = [chance.random() < logistic(0.5 + 2 * row[1] - row[2]) for row in rows]
    found = fitted(rows, right, [0.0] * 3, precision=[1e-3, 1.0, 1.0])
    assert found == pytest.approx([0.5, 2.0, -1.0], abs=0.2)


def test_where_nothing_is_seen_weights_stay_what_they_were_before() -> None:
    assert fitted([], [], [0.5, -3.0], precision=[1.0, 1.0]) == [0.5, -3.0]
    rows = [[1.0, 0.0], [1.0, 0.0]]
    assert fitted(rows, [True, False], [0.0, -3.0], precision=[1.0, 1.0])[1] == pytest.approx(-3.0)


def test_what_separates_perfectly_is_still_given_a_finite_weight() -> None:
    rows = [[1.0, float(value)] for value in range(-10, 10)]
    found = fitted(rows, [row[1] >= 0 for row in rows], [0.0, 0.0], precision=[1e-3, 1.0])
    assert 0 < found[1] < 20


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    good, bad = ([value for value, was in pairs if was is wanted] for wanted in (True, False))
    found = auroc([value for value, _ in pairs], [was for _, was in pairs])
    if not good or not bad:
        assert found is None
    else:
        wins = sum((one > other) + (one == other) / 2 for one in good for other in bad)
        assert found == pytest.approx(wins / len(good) / len(bad))


def test_scores_that_say_what_is_have_no_calibration_error() -> None:
    scores, right = [0.25] * 4 + [0.75] * 4, [True, False, False, False, True, True, True, False]
    told = measured(scores, right, threshold=0.7)
    assert told.calibration_error == 0
    assert told.brier == pytest.approx(0.1875)
    assert (told.kept, told.precise) == (0.5, 0.75)
    assert [each.count for each in bins(scores, right)] == [4, 4]


def test_where_nothing_is_kept_nothing_is_said_of_it() -> None:
    assert measured([0.1], [True], threshold=0.8).precise is None
