"""Confidence as it is told, and what is asked so that it can be known."""

from __future__ import annotations

import math

import pytest

from services.router.confidence import NOBODY, VALIDATOR, Confidence, least, sampled, with_logprobs
from spillway import v1


def test_confidence_says_who_gave_it_and_why_it_is_not_enough() -> None:
    assert Confidence(0.934, VALIDATOR).told == "confidence 0.93"
    assert Confidence(0.5, away="it is away").told == "confidence 0.50 by its own probabilities, as it is away"
    assert Confidence(None, NOBODY).told == "confidence unknown"
    assert Confidence(0.41).against(0.8) == "0.41 < 0.80"
    assert Confidence(None, NOBODY).against(0.8) == "unknown"


@pytest.mark.parametrize(("score", "threshold"), [(0.7999, 0.8), (0.999, 1.0), (0.0049, 0.005), (0.804, 0.8041)])
def test_what_is_too_little_never_reads_as_enough(score: float, threshold: float) -> None:
    found, wanted = Confidence(score).against(threshold).split(" < ")
    assert float(found) <= float(wanted)
    assert (found != wanted) or threshold * 100 % 1


def test_an_answer_without_log_probabilities_is_unknown_and_not_zero() -> None:
    told = [v1.TokenLogprob(logprob=math.log(0.25)), v1.TokenLogprob(logprob=0.0)]
    known, unknown = v1.Choice(content=v1.Delta(logprobs=told)), v1.Choice()
    assert Confidence.own(v1.GenerateResponse(choices=[known])).score == pytest.approx(0.5)
    assert Confidence.own(v1.GenerateResponse(choices=[known, unknown])) == Confidence(None, NOBODY)
    assert least([0.5, 0.4]) == 0.4
    assert least([0.5, None]) is None


def test_log_probabilities_a_caller_asks_for_are_asked_for_as_it_wants_them() -> None:
    assert with_logprobs(v1.GenerationSpec()).HasField("logprobs")
    assert with_logprobs(v1.GenerationSpec(logprobs=v1.Logprobs(top=1))).logprobs.top == 1


@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 - 1, -(2**63)])
def test_samples_have_seeds_of_their_own_within_bounds(seed: int) -> None:
    spec = v1.GenerationSpec(sampling=v1.Sampling(seed=seed, max_tokens=5))
    seeds = {sampled(spec, number).sampling.seed for number in range(1, 8)}
    assert len(seeds | {seed}) == 8
    assert sampled(spec, 1).sampling.max_tokens == 5
    assert not sampled(v1.GenerationSpec(), 1).sampling.HasField("seed")


@pytest.mark.parametrize(("asked", "found"), [(None, 0.8), (0.0, 0.8), (0.25, 0.25), (1.5, 1.5)])
def test_samples_vary_even_where_the_caller_wants_no_variation(asked: float | None, found: float) -> None:
    spec = v1.GenerationSpec(sampling=v1.Sampling(temperature=asked))
    assert sampled(spec, 1).sampling.temperature == pytest.approx(found)
