"""What is asked of a system, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from bench.load import percentile
from bench.peers.pace import Answer

CALLS, FLAT, PACED, FIRST, STALLS = "calls", "flat", "paced", "first", "stalls"
"""Kinds of load: whole answers of one token; streams flat out; paced streams; streams of one token now and then, for
their first tokens; paced streams, as many as go without a stall."""

FLAT_WORDS: Final = 200
PACED_PER_S: Final = 100
STALL_PER_S: Final = 50
STARTS_PER_S: Final = 20
STALL_S: Final = 0.25
LATE_S: Final = 3.0
"""How long paced streams are waited for after they should have ended."""


@dataclass(frozen=True, slots=True)
class Load:
    """So many callers for so many seconds. Those of paced streams each read one; the others ask again and again."""

    kind: str
    callers: int
    seconds: float

    @property
    def answer(self) -> Answer:
        """What each call asks for."""
        match self.kind:
            case "flat":
                return Answer(FLAT_WORDS, 0)
            case "paced":
                return Answer(round(PACED_PER_S * self.seconds), 1000 // PACED_PER_S)
            case "stalls":
                return Answer(round(STALL_PER_S * self.seconds), 1000 // STALL_PER_S)
        return Answer(1, 0)

    @property
    def whole(self) -> bool:
        """The answer is not streamed."""
        return self.kind == CALLS

    @property
    def paced(self) -> bool:
        return self.kind in (PACED, STALLS)

    @property
    def wanted_tokens(self) -> int:
        """Of a paced load: all tokens of all streams."""
        return self.callers * self.answer.words

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.callers} callers"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Found:
    """What the callers saw. `calls` ended well, `cut` were under way at the end, times are in seconds."""

    calls: int = 0
    failed: int = 0
    cut: int = 0
    tokens: int = 0
    chunks: int = 0
    wall_s: float = 0.0
    first_p50_s: float = 0.0
    first_p99_s: float = 0.0
    gap_p99_s: float = 0.0
    gap_max_s: float = 0.0
    error: str = ""

    @classmethod
    def read(cls, value: dict[str, Any]) -> Self:
        return cls(**value)

    def told(self) -> dict[str, Any]:
        return asdict(self)


class Failed(Exception):
    """A call did not end well."""


@dataclass(slots=True)
class Seen:
    """What all callers have seen so far."""

    calls: int = 0
    failed: int = 0
    cut: int = 0
    tokens: int = 0
    chunks: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    error: str = ""

    def found(self, wall_s: float) -> Found:
        return Found(
            self.calls,
            self.failed,
            self.cut,
            self.tokens,
            self.chunks,
            wall_s,
            percentile(self.first, 0.5),
            percentile(self.first, 0.99),
            percentile(self.gaps, 0.99),
            max(self.gaps, default=0.0),
            self.error,
        )


class Reading:
    """One answer as it comes."""

    __slots__ = ("_last", "_seen", "tokens")

    def __init__(self, seen: Seen, now: float) -> None:
        self._seen = seen
        self._last = -now  # of the start; it is negative until the first token
        self.tokens = 0

    def take(self, tokens: int, chunks: int, now: float) -> None:
        """Tokens have come, in so many chunks."""
        seen = self._seen
        if self._last <= 0:
            seen.first.append(now + self._last)
        else:
            seen.gaps.append(now - self._last)
        self._last = now
        self.tokens += tokens
        seen.tokens += tokens
        seen.chunks += chunks
