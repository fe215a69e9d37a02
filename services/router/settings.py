"""Settings of the router: its targets, its policy, and what it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from spillway.settings import ScaledSettings, Section, ServerSettings, Share, TelemetrySettings
from spillway.worker import Worker

from .admission_settings import AdmissionSettings, IdempotencySettings
from .breaker_settings import BreakersSettings, RetryBudgetSettings
from .cache_settings import CacheSettings
from .http.settings import HttpSettings
from .policy_settings import PolicyDocument
from .spend_settings import SpendSettings


class ValidatorSettings(Section):
    """The validator this router asks."""

    address: str
    timeout_s: float = Field(5.0, gt=0)
    follow_from_tokens: int | None = Field(
        128,
        gt=0,
        description="answers in JSON that may be as long are judged while they come, and stopped where nothing can "
        "make them right; null: none are",
    )
    inspect_timeout_s: float = Field(
        1.0,
        gt=0,
        description="longest wait for an inspection; then the prompt counts as most sensitive and stays",
    )


class LedgerSettings(Section):
    """Where attempts are accounted."""

    url: str = Field("sqlite:///spillway-ledger.sqlite", description="SQLAlchemy URL")
    flush_s: float = Field(0.5, gt=0, description="longest time a row waits in memory")
    intent_wait_s: float = Field(
        0.25, ge=0, description="longest an attempt that leaves the site waits for its row to be written first"
    )
    max_pending: int = Field(100_000, gt=0, description="rows kept in memory while the database is away")
    retention_days: int | None = Field(
        None, gt=0, le=36_500, description="older rows are deleted; absent: all are kept"
    )
    sweep_s: float = Field(3600.0, gt=0, description="time between two looks for rows that are too old")
    heartbeat_s: float = Field(2.0, gt=0, description="time between two signs of life, and two looks for the others'")
    dead_s: float = Field(15.0, gt=0, description="a router silent for so long has died; others settle its attempts")

    @model_validator(mode="after")
    def _a_late_sign_is_no_death(self) -> LedgerSettings:
        if self.dead_s < 4 * self.heartbeat_s:
            raise ValueError("dead_s: must be at least four times heartbeat_s")
        return self


class RouterTelemetrySettings(TelemetrySettings):
    """A router can be scraped too."""

    metrics_listen: str | None = Field(
        None,
        pattern=r"^.*:\d{1,5}$",
        description="host:port that Prometheus scrapes; port 0 takes a free one; absent: off",
    )


class RouterSettings(ScaledSettings, PolicyDocument):
    """Section `router` of the configuration. The policy is stated here, or in a file of its own."""

    server: ServerSettings = ServerSettings(listen="127.0.0.1:7070")
    telemetry: RouterTelemetrySettings = RouterTelemetrySettings()
    name: str = "router"
    policy_file: Path | None = Field(None, description="YAML file of the policy, instead of stating it here")
    policy_reload_s: float = Field(2.0, gt=0, description="how often the policy file is looked at")
    resolve_s: float = Field(5.0, gt=0, description="how often the names at which targets are are looked up")
    validator: ValidatorSettings | None = Field(None, description="absent: nothing is validated")
    ledger: LedgerSettings | None = Field(None, description="absent: attempts are logged, not kept")
    admission: AdmissionSettings = AdmissionSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    cache: CacheSettings = CacheSettings()
    breakers: BreakersSettings = BreakersSettings()
    retry_budget: RetryBudgetSettings = RetryBudgetSettings()
    spend: SpendSettings = SpendSettings()
    http: HttpSettings = HttpSettings()
    target_key: str | None = Field(None, repr=False, description="key sent to targets and validator")

    @model_validator(mode="after")
    def _has_one_policy(self) -> RouterSettings:
        stated = sorted(self.model_fields_set & set(PolicyDocument.model_fields))
        if self.policy_file is not None and stated:
            raise ValueError(f"policy_file: the policy is stated there, so remove {', '.join(stated)} from here")
        return self

    def of(self, worker: Worker, shared: Share) -> Self:
        found = super().of(worker, shared)
        told = {"admission": self.admission.of(worker), "idempotency": self.idempotency.of(worker)}
        if self.http.listen is not None:
            told["http"] = self.http.model_copy(update={"listen": shared("http.listen", self.http.listen)})
        if self.telemetry.metrics_listen is not None:  # the supervisor adds up what it reads there
            told["telemetry"] = found.telemetry.model_copy(update={"metrics_listen": "127.0.0.1:0"})
        return found.model_copy(update=told)

    def apart(self) -> tuple[str, ...]:
        return () if self.store.url else ("breakers", "budgets of tenants", "retry budget", "probes")
