"""A line of the table."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from bench.load import percentile
from services.validator.confidence.measure import Measured


@dataclass(frozen=True, slots=True)
class Row:
    """CPU of the process named `through`, in microseconds per `unit`, under `load`."""

    load: str
    through: str
    cpu_us: float
    unit: str
    note: str

    def __str__(self) -> str:
        return f"{self.load:42} {self.through:16} {self.cpu_us:8.1f} us per {self.unit:6} {self.note}"


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second of `through` under `load`."""

    load: str
    through: str
    tokens_per_s: float
    note: str = ""

    def __str__(self) -> str:
        return f"{self.load:42} {self.through:24} {self.tokens_per_s:8.0f} tokens/s {self.note}"


@dataclass(frozen=True, slots=True)
class Wait:
    """Median and longest time of `through` under `load`, in seconds, beside that of the bare way."""

    load: str
    through: str
    median_s: float
    bare_s: float
    longest_s: float

    def __str__(self) -> str:
        ratio = self.median_s / self.bare_s
        return (
            f"{self.load:42} {self.through:24} {self.median_s * 1e3:8.1f} ms, "
            f"{ratio:.2f} of the bare abort, longest {self.longest_s * 1e3:.1f} ms"
        )


@dataclass(frozen=True, slots=True)
class Share:
    """A figure of `what` under `load`, with priorities and first come, first served."""

    load: str
    what: str
    found: float
    plain: float
    unit: str

    def __str__(self) -> str:
        share = self.found / self.plain
        return f"{self.load:42} {self.what:28} {self.found:8.0f} {self.unit}, first come {self.plain:.0f}: {share:.2f}"


@dataclass(frozen=True, slots=True)
class Calls:
    """What became of `calls` calls under `load`: those that failed, that the cloud answered, that met in the runtime.

    `waited_s` holds the seconds to the first token of each that was answered.
    """

    load: str
    through: str
    calls: int
    failed: int
    cloud: int
    collisions: int
    waited_s: tuple[float, ...]

    def __str__(self) -> str:
        waits = [percentile(list(self.waited_s), share) * 1e3 for share in (0.5, 0.95)]
        return (
            f"{self.load:42} {self.through:28} {self.calls:4} calls, {self.failed / self.calls:6.1%} failed, "
            f"{self.cloud / self.calls:6.1%} from the cloud, waited p50 {waits[0]:.0f} p95 {waits[1]:.0f} ms, "
            f"{self.collisions} met in the runtime"
        )


@dataclass(frozen=True, slots=True)
class Told:
    """How well scores tell right answers from wrong ones: `before` is exp(mean logprob) over all tokens."""

    load: str
    through: str
    before: Measured
    after: Measured

    def __str__(self) -> str:
        figures = [
            f"{name} AUROC {'-' if each.auroc is None else f'{each.auroc:.3f}'} Brier {each.brier:.3f} "
            f"ECE {each.calibration_error:.3f} keeps {each.kept:6.1%} "
            f"right {'-' if each.precise is None else f'{each.precise:.1%}'}"
            for name, each in (("before", self.before), ("after", self.after))
        ]
        head = f"{self.load:42} {self.through:24} {self.after.count:5} answers, {self.after.right:6.1%} right"
        return "; ".join([head, *figures])


@dataclass(frozen=True, slots=True)
class Step:
    """How many of `of` answers are valid after `step` under `load`, and what the step took in all.

    `duration_ms` holds the milliseconds of each attempt that it made, or read again, with their judgement.
    """

    load: str
    step: str
    valid: int
    of: int
    attempts: int
    tokens: int
    duration_ms: tuple[float, ...]
    cost_usd: float

    def __str__(self) -> str:
        p50, p95 = (percentile(list(self.duration_ms), share) if self.duration_ms else 0.0 for share in (0.5, 0.95))
        return (
            f"{self.load:36} {self.step:24} valid {self.valid:4} of {self.of} ({self.valid / self.of:6.1%}), "
            f"{self.attempts:4} attempts, {self.tokens:7} tokens, p50 {p50:.0f} p95 {p95:.0f} ms, "
            f"{self.cost_usd:.6f} USD"
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What `through` holds after `load`: megabytes before and after, and objects by class that are more than before.

    `pause_ms` is the CPU of the longest run of the garbage collector meanwhile.
    """

    load: str
    through: str
    before_mb: float
    after_mb: float
    left: dict[str, int]
    pause_ms: float

    def __str__(self) -> str:
        left = ", ".join(f"{count} {name}" for name, count in self.left.items()) or "nothing"
        return (
            f"{self.load:42} {self.through:16} {self.before_mb:.1f} MB before, {self.after_mb:.1f} after: "
            f"{self.after_mb / self.before_mb:.3f}; left over: {left}; "
            f"longest collection {self.pause_ms:.1f} ms of CPU"
        )


@dataclass(frozen=True, slots=True)
class Added:
    """Seconds that `through` adds under `load`, at the median and of a hundred, beside the median of a bare call."""

    load: str
    through: str
    p50_s: float
    p99_s: float
    bare_s: float

    def __str__(self) -> str:
        return (
            f"{self.load:42} {self.through:34} adds p50 {self.p50_s * 1e3:.2f} p99 {self.p99_s * 1e3:.2f} ms; "
            f"p50 is {self.p50_s / self.bare_s:.2f} of a bare round trip of {self.bare_s * 1e3:.2f} ms"
        )


@dataclass(frozen=True, slots=True)
class Gaps:
    """The longest gap of any stream in seconds, how many were `stalls`, and the share of a core of each process."""

    load: str
    through: str
    longest_s: float
    stalls: int
    shares: dict[str, float]
    note: str

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return (
            f"{self.load:42} {self.through:16} longest gap {self.longest_s * 1e3:.0f} ms, {self.stalls} over 250 ms; "
            f"of a core: {shares}; {self.note}"
        )


@dataclass(frozen=True, slots=True)
class Capacity:
    """What `workers` carry of `load`, as CPU says it: of each round one worker's CPU and that of each of several.

    A service is as quick as its busiest process, so where each worker has a core, rates are to one another as the
    CPU of one is to that of the busiest. `rates` are those achieved here, one's and several's, in `unit` a second.
    """

    load: str
    one_s: tuple[float, ...]
    several_s: tuple[tuple[float, ...], ...]
    rates: tuple[tuple[float, float], ...]
    unit: str

    @property
    def ratio(self) -> float:
        """Median of the rounds."""
        return median(one / max(several) for one, several in zip(self.one_s, self.several_s, strict=True))

    def __str__(self) -> str:
        cost = median(sum(several) / one for one, several in zip(self.one_s, self.several_s, strict=True))
        busiest = median(max(several) / sum(several) for several in self.several_s)
        one, several = (median(rate[at] for rate in self.rates) for at in (0, 1))
        return (
            f"{self.load:42} {len(self.several_s[0])} workers carry {self.ratio:.2f} of one where each has a core: "
            f"the busiest does {busiest:.3f} of it, all together take {cost:.2f} of its CPU; achieved here "
            f"{several:.0f} against {one:.0f} {self.unit}/s"
        )
