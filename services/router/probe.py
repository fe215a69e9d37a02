"""A probe: the right to try a sick target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Probe:
    """Handed back with the attempt's observation; left alone, it ends by itself."""

    target: str
    kind: str
    transport: int | None
    quality: int | None
    lease: str = ""
