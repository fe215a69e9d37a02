"""Logistic regression with a Gaussian prior: plain Python, for some thousand outcomes and some twenty features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

from services.validator.confidence.formula import logistic

STEPS, HALVINGS = 50, 30
CLOSE = 1e-9
"""Gain of a step, in nats, at which no more are taken."""


def fitted(
    rows: Sequence[Sequence[float]], right: Sequence[bool], prior: Sequence[float], *, precision: Sequence[float]
) -> list[float]:
    """Return the weights of greatest posterior probability, by Newton's method (Bishop 2006, 4.3.3 and 4.5.1).

    `prior` is the mean of each weight before anything is seen, `precision` one over its variance. A step that would
    lead downhill is halved until it does not: the posterior is concave, so every start ends at its top.
    """
    weights = list(prior)
    height = _height(rows, right, weights, prior, precision)
    for _ in range(STEPS):
        step = _step(rows, right, weights, prior, precision)
        share = 1.0
        for _ in range(HALVINGS):
            further = [weight + share * value for weight, value in zip(weights, step, strict=True)]
            if (higher := _height(rows, right, further, prior, precision)) >= height:
                break
            share /= 2
        else:
            break
        weights, gain, height = further, higher - height, higher
        if gain < CLOSE:
            break
    return weights


def _height(
    rows: Sequence[Sequence[float]],
    right: Sequence[bool],
    weights: Sequence[float],
    prior: Sequence[float],
    precision: Sequence[float],
) -> float:
    """The logarithm of the posterior, but for a constant."""
    likelihood = math.fsum(_log_share(at if was else -at) for at, was in zip(_sums(rows, weights), right, strict=True))
    distance = sum(
        held * (weight - before) ** 2 for held, weight, before in zip(precision, weights, prior, strict=True)
    )
    return likelihood - distance / 2


def _step(
    rows: Sequence[Sequence[float]],
    right: Sequence[bool],
    weights: Sequence[float],
    prior: Sequence[float],
    precision: Sequence[float],
) -> list[float]:
    size = len(weights)
    gradient = [(prior[i] - weights[i]) * precision[i] for i in range(size)]
    curvature = [[precision[i] if i == j else 0.0 for j in range(size)] for i in range(size)]
    for row, at, was in zip(rows, _sums(rows, weights), right, strict=True):
        share = logistic(at)
        missed, steepness = was - share, share * (1 - share)
        for i, value in enumerate(row):
            if value:
                gradient[i] += missed * value
                scaled, into = steepness * value, curvature[i]
                for j in range(i + 1):
                    into[j] += scaled * row[j]
    return _solved(curvature, gradient)


def _sums(rows: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    return [sum(map(mul, weights, row)) for row in rows]


def _log_share(sum_: float) -> float:
    """log(1 / (1 + exp(-x))), without overflow."""
    return -math.log1p(math.exp(-sum_)) if sum_ >= 0 else sum_ - math.log1p(math.exp(sum_))


def _solved(matrix: list[list[float]], wanted: list[float]) -> list[float]:
    """Solve for a positive definite `matrix`, of which the lower half is given, by Cholesky's decomposition."""
    size = len(wanted)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(map(mul, lower[i][:j], lower[j][:j]))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    half = [0.0] * size
    for i in range(size):
        half[i] = (wanted[i] - sum(map(mul, lower[i][:i], half[:i]))) / lower[i][i]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (half[i] - sum(lower[j][i] * found[j] for j in range(i + 1, size))) / lower[i][i]
    return found
