"""Settings of admission and of idempotency. See docs/admission.md."""

from __future__ import annotations

from pydantic import Field

from spillway.settings import Section


class AdmissionSettings(Section):
    """How many requests run and wait at once, and who is next."""

    max_running: int = Field(1024, gt=0, description="requests being answered at once")
    max_waiting: int = Field(4096, ge=0, description="requests waiting for that; one more gets QUEUE_FULL")
    background_max_running: int | None = Field(None, gt=0, description="of these, background ones; absent: no bound")
    background_max_waiting: int | None = Field(None, ge=0, description="absent: half of max_waiting")
    background_share: float = Field(
        0.1, gt=0, le=0.5, description="share of freed places that background gets while interactive requests wait"
    )
    tenant_max_running: int | None = Field(None, gt=0, description="of one tenant; absent: no bound")
    tenant_max_waiting: int | None = Field(None, ge=0, description="of one tenant; absent: no bound")


class IdempotencySettings(Section):
    """Which answers are given again to a repeated request_id."""

    window_s: float = Field(600.0, gt=0, description="time an answer is given again")
    max_entries: int = Field(10_000, gt=0, description="answers kept; the oldest go first")
    max_bytes: int = Field(64 * 2**20, gt=0, description="of all answers kept")
