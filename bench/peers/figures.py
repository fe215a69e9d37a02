"""From samples to figures: medians of rounds, beside those of going direct. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Self

from bench.peers.load import STALL_S, Found, Load


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one load on one system. `cpu_s` is that of its process tree; None where there is none."""

    found: Found
    cpu_s: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians of the rounds. None: unknown, or there was nothing to divide by."""

    cpu_us_call: float | None
    cpu_us_token: float | None
    cpu_us_chunk: float | None
    calls_per_s: float
    tokens_per_s: float
    first_p50_ms: float
    first_p99_ms: float
    gap_p99_ms: float
    gap_max_ms: float
    pace: float | None
    """Share of a paced load's tokens that came in time."""
    failed: int
    """Calls, of all rounds."""
    error: str

    @classmethod
    def of(cls, samples: Sequence[Sample], load: Load) -> Self:
        def middle(value: Callable[[Found], float]) -> float:
            return median(value(sample.found) for sample in samples)

        def cpu_us(units: Callable[[Found], int]) -> float | None:
            shares = [
                sample.cpu_s / units(sample.found) * 1e6
                for sample in samples
                if sample.cpu_s is not None and units(sample.found)
            ]
            return median(shares) if shares else None

        return cls(
            cpu_us_call=cpu_us(lambda found: found.calls),
            cpu_us_token=cpu_us(lambda found: found.tokens),
            cpu_us_chunk=cpu_us(lambda found: found.chunks),
            calls_per_s=middle(lambda found: found.calls / found.wall_s),
            tokens_per_s=middle(lambda found: found.tokens / found.wall_s),
            first_p50_ms=middle(lambda found: found.first_p50_s * 1e3),
            first_p99_ms=middle(lambda found: found.first_p99_s * 1e3),
            gap_p99_ms=middle(lambda found: found.gap_p99_s * 1e3),
            gap_max_ms=max(sample.found.gap_max_s for sample in samples) * 1e3,
            pace=middle(lambda found: found.tokens / load.wanted_tokens) if load.paced else None,
            failed=sum(sample.found.failed for sample in samples),
            error=next((sample.found.error for sample in samples if sample.found.error), ""),
        )


def stalled(found: Found, load: Load) -> bool:
    """Whether a stream paused for longer than STALL_S, failed, or did not come to its end in time."""
    return bool(found.failed or found.cut or found.tokens < load.wanted_tokens or found.gap_max_s > STALL_S)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found of one system. `missing` says why there is nothing; `streams` went without a stall."""

    name: str
    wire: str
    version: str = ""
    missing: str = ""
    memory_before: int | None = None
    memory_after: int | None = None
    streams: int | None = None
    figures: dict[str, Figures] = field(default_factory=dict)

    @classmethod
    def read(cls, value: dict[str, Any]) -> Self:
        figures = {load: Figures(**found) for load, found in value["figures"].items()}
        return cls(**{**value, "figures": figures})


@dataclass(frozen=True, slots=True)
class Report:
    """All of a run: where, when, what. `surroundings` are lines for the reader."""

    surroundings: list[str]
    callers: list[int]
    stream_counts: list[int]
    outcomes: list[Outcome]

    @classmethod
    def read(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "outcomes": [Outcome.read(each) for each in value["outcomes"]]})

    def told(self) -> dict[str, Any]:
        return asdict(self)

    def direct(self, outcome: Outcome) -> Outcome | None:
        """The callers of `outcome` with nothing between them and the upstream."""
        return next((each for each in self.outcomes if each.wire == outcome.wire and not each.version), None)
