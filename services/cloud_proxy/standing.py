"""How a scope stands: what counts in it now, what is left, what the provider told. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from services.cloud_proxy.limits import CONCURRENCY, IN_WINDOW, NAMES, NANO_USD, UNLIMITED, Limits, Scope


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one limit. `remaining` None: nobody knows. `free_s`: until something becomes free, in seconds."""

    name: str
    limit: int
    remaining: int | None = None
    free_s: float | None = None
    learned: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """One scope as the store sees it; `counted` None while it is away."""

    scope: Scope
    counted: tuple[int, int, int] | None = None
    """Requests, tokens of prompts, tokens of answers."""
    running: int = 0
    nano_usd: int = 0
    closed_s: float = 0.0
    why: str = ""
    learned: Limits = UNLIMITED
    """What the provider told, where it is less than what is configured."""
    rooms: tuple[int | None, ...] = (None,) * IN_WINDOW
    """What the provider says is left, by NAMES."""
    frees: tuple[float | None, ...] = (None,) * IN_WINDOW
    """Seconds until something of a limit is free, by NAMES."""

    def left(self) -> Iterator[Left]:
        """What is left of every limit that holds."""
        told = self.scope.limits.within(self.learned)
        counted = self.counted
        taken: tuple[int, ...] | None = None
        if counted is not None:
            requests, input, output = counted
            taken = (requests, input + output, input, output, self.running, self.nano_usd)
        for at, (name, limit) in enumerate(zip(NAMES, told, strict=True)):
            if limit is None:
                continue
            remaining = None if taken is None else max(0, limit - taken[at])
            if name in (CONCURRENCY, NANO_USD):
                yield Left(name, limit, remaining)
                continue
            room = self.rooms[at]
            if remaining is not None and room is not None:
                remaining = min(remaining, room)
            yield Left(name, limit, remaining, self.frees[at], self.learned[at] is not None)


def read(scope: Scope, told: Any) -> Standing:
    """Read what the script LOOK tells of `scope`."""
    requests, input, output, running, nano_usd, closed_us, why, *limits = told
    by_name: list[Sequence[int]] = [limits[at * 4 : at * 4 + 4] for at in range(IN_WINDOW)]
    return Standing(
        scope,
        (requests, input, output),
        running,
        nano_usd,
        closed_us / 1e6,
        why.decode() if isinstance(why, bytes) else "",
        Limits(*(limit if learned else None for limit, learned, _, _ in by_name)),
        tuple(room if room >= 0 else None for _, _, room, _ in by_name),
        tuple(free / 1e6 if free >= 0 else None for _, _, _, free in by_name),
    )
