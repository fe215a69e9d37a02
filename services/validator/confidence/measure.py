"""How good scores are, against what was right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the chance that a right answer scores higher than a wrong one, ties half; None if all are alike.

    Mann and Whitney's U over the number of pairs.
    """
    good = sum(right)
    if good in (0, len(right)):
        return None
    ordered = sorted(zip(scores, right, strict=True))
    ranks, at = 0.0, 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        ranks += (at + end + 1) / 2 * sum(was for _, was in ordered[at:end])
        at = end
    return (ranks - good * (good + 1) / 2) / (good * (len(right) - good))


def brier(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Return the mean squared distance of scores from 1 for right answers and 0 for wrong ones (Brier 1950)."""
    return sum((score - was) ** 2 for score, was in zip(scores, right, strict=True)) / len(scores)


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same score: their number, their mean score, and the share of them that was right."""

    count: int
    score: float
    right: float


def bins(scores: Sequence[float], right: Sequence[bool]) -> list[Bin]:
    """Return the answers by tenths of the score, empty ones left out."""
    found = []
    for number in range(BINS):
        inside = [
            (score, was) for score, was in zip(scores, right, strict=True) if min(int(score * BINS), BINS - 1) == number
        ]
        if inside:
            count = len(inside)
            found.append(Bin(count, sum(score for score, _ in inside) / count, sum(was for _, was in inside) / count))
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of some scores. `kept` is the share of answers that score at least the threshold, `precise` how many of
    those are right (None: none is kept)."""

    count: int
    right: float
    auroc: float | None
    brier: float
    calibration_error: float
    kept: float
    precise: float | None


def measured(scores: Sequence[float], right: Sequence[bool], threshold: float) -> Measured:
    """Return the figures of `scores`: Brier's score, the expected calibration error over ten bins of equal width."""
    count = len(scores)
    above = [was for score, was in zip(scores, right, strict=True) if score >= threshold]
    return Measured(
        count,
        sum(right) / count,
        auroc(scores, right),
        brier(scores, right),
        sum(each.count * abs(each.score - each.right) for each in bins(scores, right)) / count,
        len(above) / count,
        sum(above) / len(above) if above else None,
    )
