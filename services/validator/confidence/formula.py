"""From signs to a probability: a sum of weighted features, on the scale of log-odds, and a calibration of it.

Every feature is 0 where its sign is unknown, and a second one says that it is. The log-odds of exp(mean logprob) are a
feature: with a weight of 1 and no other sign the score is exp(mean logprob), the geometric mean of the token
probabilities.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from services.validator.confidence.signs import Signs

FARTHEST = 8.0
"""Log-odds beyond it count as this: a probability of .99966."""
_LEAST_NATS = 1e-4


def features(signs: Signs) -> dict[str, float]:
    """Return what is known of `signs` as numbers of about the same size; what is 0 is left out."""
    told: dict[str, float | None] = {
        "mean_logprob": _odds(signs.mean_logprob),
        "min_logprob": _odds(signs.min_logprob),
        "entropy": None if signs.entropy is None else math.log(max(signs.entropy, _LEAST_NATS)),
        "agreement": None if signs.agreement is None else 2 * signs.agreement - 1,
        "novelty": signs.novelty,
        "refusal": float(signs.refusal),
        "length": None if signs.length is None else min(abs(signs.length), FARTHEST),
        "judge": None if signs.judge is None else _odds(math.log(max(signs.judge, 1e-9))),
        "truncated": float(signs.truncated),
    }
    known = {name: value for name, value in told.items() if value}
    return known | {f"no_{name}": 1.0 for name, value in told.items() if value is None}


SIGNS = (
    "mean_logprob", "min_logprob", "entropy", "agreement", "novelty", "refusal", "length", "judge", "truncated",
)  # fmt: skip
NEVER_UNKNOWN = frozenset({"refusal", "truncated"})
FEATURES = (*SIGNS, *(f"no_{sign}" for sign in SIGNS if sign not in NEVER_UNKNOWN))
"""Names of all features."""


def _odds(logprob: float | None) -> float | None:
    """The log-odds of a probability given as its natural logarithm."""
    if logprob is None:
        return None
    if logprob >= -1e-9:
        return FARTHEST
    return max(-FARTHEST, min(FARTHEST, logprob - math.log(-math.expm1(logprob))))


def logistic(sum_: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-sum_)) if sum_ >= 0 else math.exp(sum_) / (1 + math.exp(sum_))


@dataclass(frozen=True, slots=True)
class Formula:
    """Weights by name of feature, and a calibration: points (sum, probability), both never falling.

    Between two points the probability is interpolated, beyond the outer ones it stays; without points it is the
    logistic function of the sum.
    """

    intercept: float
    weights: Mapping[str, float]
    calibration: tuple[tuple[float, float], ...] = ()

    def sum(self, signs: Signs) -> float:
        """Return the log-odds before calibration."""
        return self.intercept + sum(self.weights.get(name, 0.0) * value for name, value in features(signs).items())

    def score(self, signs: Signs) -> float:
        """Return the probability that the answer is right."""
        return calibrated(self.calibration, self.sum(signs))


def calibrated(points: tuple[tuple[float, float], ...], sum_: float) -> float:
    """Return the probability that `points` give `sum_`."""
    if not points:
        return logistic(sum_)
    above = bisect_right(points, sum_, key=lambda point: point[0])
    if above == 0:
        return points[0][1]
    if above == len(points):
        return points[-1][1]
    (left, low), (right, high) = points[above - 1], points[above]
    return low + (high - low) * (sum_ - left) / (right - left)
