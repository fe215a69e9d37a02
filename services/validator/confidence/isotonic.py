"""Isotonic calibration: the share of right answers as a function of a sum that never falls, told with caution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

AT_LEAST = 20
"""Outcomes in a group; smaller ones would follow chance."""
CAUTION = 1.0
"""Standard errors that are taken off a share: what is asked next differs from what was asked by more than chance."""


def isotonic(sums: Sequence[float], right: Sequence[bool]) -> tuple[tuple[float, float], ...]:
    """Return points (sum, probability) that rise, by pooling adjacent violators (Ayer et al. 1955).

    Outcomes are taken in groups of `AT_LEAST` in the order of their sums; one right and one wrong answer are added to
    each (Laplace), so that no probability is 0 or 1. Equal sums stay together. Where the share of many is what that of
    few is, it is told higher: `CAUTION` standard errors are taken off each.
    """
    blocks: list[tuple[float, float, int]] = []  # sum of sums, right ones, outcomes
    for group in _groups(sorted(zip(sums, right, strict=True))):
        count = len(group) + 2
        mean = sum(at for at, _ in group) / len(group)
        block = (mean * count, 1.0 + sum(was for _, was in group), count)
        while blocks and blocks[-1][1] / blocks[-1][2] >= block[1] / block[2]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    points, highest = [], 0.0
    for total, good, count in blocks:
        highest = max(highest, _cautious(good / count, count))
        points.append((total / count, highest))
    return tuple(points)


def _cautious(share: float, count: int) -> float:
    """Return `share` of `count` less its standard errors, and never less than half of it."""
    return max(share / 2, share - CAUTION * math.sqrt(share * (1 - share) / count))


def _groups(pairs: Sequence[tuple[float, bool]]) -> Iterator[list[tuple[float, bool]]]:
    group: list[tuple[float, bool]] = []
    for index, pair in enumerate(pairs):
        if len(group) >= AT_LEAST and pair[0] > group[-1][0] and len(pairs) - index >= AT_LEAST:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group
