"""Settings of the breakers and of the retry budget."""

from __future__ import annotations

from pydantic import Field, model_validator

from spillway.settings import Section


class BreakerSettings(Section):
    """When a breaker opens, for how long, and how it closes again."""

    in_a_row: int | None = Field(3, gt=0, description="connection-level failures without an answer between; null: off")
    share: float = Field(0.15, gt=0, lt=1, description="it opens over this share of failures in the window")
    least_samples: int = Field(20, gt=0, description="fewest attempts in the window that a share is taken of")
    window_s: float = Field(60.0, gt=0, description="rolling window")
    open_s: float = Field(25.0, gt=0, description="first time open, before jitter")
    longest_open_s: float = Field(30.0, gt=0, description="longest time open while probes fail, jitter included")
    growth: float = Field(1.2, ge=1, description="a time open over the one before it, while probes fail")
    jitter: float = Field(0.1, ge=0, le=1, description="share of a time open that chance may add to it")
    probes: int = Field(1, gt=0, description="probes at once, by all routers together")
    probe_s: float = Field(15.0, gt=0, description="a probe not settled after so long no longer bars the next")
    answers_to_close: int = Field(1, gt=0, description="answers that close it, with no failure between")
    ramp_s: float = Field(5.0, ge=0, description="time from closing to its full share of requests")
    ramp_from: float = Field(0.1, gt=0, le=1, description="share of requests it gets at once when it closes")
    longest_hold_s: float = Field(60.0, ge=0, description="longest Retry-After of a target that is heeded")

    @model_validator(mode="after")
    def _the_first_time_open_fits(self) -> BreakerSettings:
        if self.longest_open_s < self.open_s * (1 + self.jitter):
            raise ValueError("longest_open_s: must be at least open_s and its jitter")
        return self


class QualitySettings(BreakerSettings):
    """The same for refused answers, per target and kind of work. One good answer proves little, so several close it."""

    in_a_row: int | None = Field(None, gt=0, description="refused answers in a row; null: off")
    longest_open_s: float = Field(300.0, gt=0, description="longest time off while probes fail, jitter included")
    growth: float = Field(2.0, ge=1, description="a time off over the one before it, while probes fail")
    answers_to_close: int = Field(3, gt=0, description="accepted answers that switch back, with no refusal between")
    max_kinds: int = Field(1000, gt=0, description="kinds of work remembered; the one not seen for longest is dropped")


class BreakersSettings(Section):
    """All breakers of a router, and what it shares with other routers."""

    transport: BreakerSettings = BreakerSettings()
    quality: QualitySettings = QualitySettings()
    poll_s: float = Field(0.5, gt=0, description="time between two looks at the other routers' hints")
    fresh_s: float = Field(
        5.0, ge=0, description="a target that answered here so lately is not given up on another's word"
    )


class RetryBudgetSettings(Section):
    """How many retries on the same target and hedges all routers together may add to their requests."""

    share: float = Field(0.1, ge=0, le=1, description="of the requests in the window")
    floor: int = Field(10, ge=0, description="in the window besides, by all routers together")
    window_s: float = Field(10.0, gt=0)
    routers: int = Field(1, gt=0, description="routers that share the floor, at least")
