"""Isotonic calibration: the share of right answers as a function of a sum that never falls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

AT_LEAST = 20
"""Outcomes in a group; smaller ones would follow chance."""


def isotonic(sums: Sequence[float], right: Sequence[bool]) -> tuple[tuple[float, float], ...]:
    """Return points (sum, probability) that rise, by pooling adjacent violators (Ayer et al. 1955).

    Outcomes are taken in groups of `AT_LEAST` in the order of their sums; one right and one wrong answer are added to
    each (Laplace), so that no probability is 0 or 1. Equal sums stay together.
    """
    blocks: list[tuple[float, float, int]] = []  # sum of sums, right ones, outcomes
    for group in _groups(sorted(zip(sums, right, strict=True))):
        block = (sum(at for at, _ in group), 1.0 + sum(was for _, was in group), len(group) + 2)
        total = sum(at for at, _ in group) / len(group) * block[2]
        block = (total, block[1], block[2])
        while blocks and blocks[-1][1] / blocks[-1][2] >= block[1] / block[2]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    return tuple((total / count, good / count) for total, good, count in blocks)


def _groups(pairs: Sequence[tuple[float, bool]]) -> Iterator[list[tuple[float, bool]]]:
    group: list[tuple[float, bool]] = []
    for index, pair in enumerate(pairs):
        if len(group) >= AT_LEAST and pair[0] > group[-1][0] and len(pairs) - index >= AT_LEAST:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group
