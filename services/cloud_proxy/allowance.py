"""What a provider says is left of its limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowance:
    """Of `limit` in a minute, `remaining` are left; all of it again after `reset_s` seconds.

    `name` is that of a limit of ours (limits.py). None: the provider does not tell.
    """

    name: str
    remaining: int
    limit: int | None = None
    reset_s: float | None = None
