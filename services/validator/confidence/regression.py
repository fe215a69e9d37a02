"""Logistic regression with a Gaussian prior: plain Python, for some thousand outcomes and some twenty features."""

from __future__ import annotations

import math
from collections.abc import Sequence

from services.validator.confidence.formula import logistic

STEPS = 50
CLOSE = 1e-6


def fitted(
    rows: Sequence[Sequence[float]], right: Sequence[bool], prior: Sequence[float], *, precision: Sequence[float]
) -> list[float]:
    """Return the weights of greatest posterior probability, by Newton's method (Bishop 2006, 4.3.3 and 4.5.1).

    `prior` is the mean of each weight before anything is seen, `precision` one over its variance.
    """
    weights = list(prior)
    size = len(weights)
    for _ in range(STEPS):
        gradient = [(prior[i] - weights[i]) * precision[i] for i in range(size)]
        curvature = [[precision[i] if i == j else 0.0 for j in range(size)] for i in range(size)]
        for row, was_right in zip(rows, right, strict=True):
            share = logistic(sum(map(float.__mul__, weights, row)))
            missed, steepness = was_right - share, share * (1 - share)
            for i in range(size):
                if row[i]:
                    gradient[i] += missed * row[i]
                    scaled, into = steepness * row[i], curvature[i]
                    for j in range(i + 1):
                        into[j] += scaled * row[j]
        step = _solved(curvature, gradient)
        length = math.sqrt(sum(value * value for value in step))
        held = min(1.0, 5.0 / length) if length else 1.0  # far from the optimum a whole step may overshoot
        weights = [weight + held * value for weight, value in zip(weights, step, strict=True)]
        if length < CLOSE:
            break
    return weights


def _solved(matrix: list[list[float]], wanted: list[float]) -> list[float]:
    """Solve for a positive definite `matrix`, of which the lower half is given, by Cholesky's decomposition."""
    size = len(wanted)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(map(float.__mul__, lower[i][:j], lower[j][:j]))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    half = [0.0] * size
    for i in range(size):
        half[i] = (wanted[i] - sum(map(float.__mul__, lower[i][:i], half[:i]))) / lower[i][i]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (half[i] - sum(lower[j][i] * found[j] for j in range(i + 1, size))) / lower[i][i]
    return found
