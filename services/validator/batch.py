"""A batch of answers, of which one may be too much for who judges them: the others keep their verdicts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from spillway.errors import ConstraintUnsupported

MAX_TOO_MUCH: Final = 4
"""More answers of one batch than this are not tried when they take all of a worker's time."""

Asked = TypeVar("Asked")
Told = TypeVar("Told")


async def apart(
    ask: Callable[[Sequence[Asked]], Awaitable[Sequence[Told]]], batch: Sequence[Asked]
) -> list[Told | ConstraintUnsupported]:
    """Return what `ask` tells of each of `batch`, asked together, or one by one where that was too much.

    Raises ConstraintUnsupported where it is too much of most of them, so that it is not their fault.
    """
    try:
        return list(await ask(batch))
    except ConstraintUnsupported:
        if len(batch) < 2:
            raise
    told: list[Told | ConstraintUnsupported] = []
    lost = 0
    for one in batch:
        try:
            told += await ask([one])
        except ConstraintUnsupported as error:
            lost += 1
            if lost > min(MAX_TOO_MUCH, max(1, len(told) - lost)):
                raise
            told.append(error)
    return told
