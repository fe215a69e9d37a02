"""Settings of admission and of idempotency. See docs/admission.md."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from spillway.settings import Section, SettingsError
from spillway.worker import Worker


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

    def of(self, worker: Worker) -> Self:
        """Return the share of `worker`: what all let run and wait together is what is set.

        Raises SettingsError where there are fewer places than workers.
        """
        shares = {name: worker.share(bound) for name, bound in self if isinstance(bound, int)}
        for name in shares:
            if name.endswith("max_running") and getattr(self, name) < worker.count:
                raise SettingsError(
                    f"router.admission.{name}: {getattr(self, name)} places are fewer than the {worker.count} workers"
                    " that share them: raise it, or have fewer workers"
                )
        return self.model_copy(update=shares)


class IdempotencySettings(Section):
    """Which answers are given again to a repeated request_id."""

    window_s: float = Field(600.0, gt=0, description="time an answer is given again")
    max_entries: int = Field(10_000, gt=0, description="answers kept; the oldest go first")
    max_bytes: int = Field(64 * 2**20, gt=0, description="of all answers kept")

    def of(self, worker: Worker) -> Self:
        """Return the share of `worker`, at least an answer: each keeps its own."""
        told = {"max_entries": max(1, worker.share(self.max_entries)), "max_bytes": worker.share(self.max_bytes)}
        return self.model_copy(update=told)
