"""Faults a fake target can be told to have, one per request, in the order they are scripted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from spillway.errors import SpillwayError


@dataclass(frozen=True, slots=True)
class Refuse:
    """Fail before the first token."""

    error: SpillwayError


@dataclass(frozen=True, slots=True)
class Silence:
    """Accept, and never answer."""


@dataclass(frozen=True, slots=True)
class SlowFirst:
    """The first token comes `seconds` late."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stall:
    """Send `after` tokens, then nothing more; `after` all of them, the end is what is missing."""

    after: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Send `after` tokens, then fail as a dropped connection does; `after` all of them, the end is what is missing."""

    after: int


@dataclass(frozen=True, slots=True)
class Garbage:
    """Answer `text` instead of what would be right."""

    text: str = '{"label": '


Fault = Refuse | Silence | SlowFirst | Stall | Cut | Garbage


class Script:
    """The faults still to come; a request takes the next one, and none when the script is over."""

    def __init__(self, *faults: Fault | None, always: Fault | None = None) -> None:
        self._coming = deque(faults)
        self.always = always

    def next(self) -> Fault | None:
        return self._coming.popleft() if self._coming else self.always

    def __repr__(self) -> str:
        return f"<Script {len(self._coming)} faults, then {self.always}>"
