"""Settings of the router: its targets, its policy, and what it calls."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spillway.settings import Section, ServerSettings, ServiceSettings

from .http.settings import HttpSettings

CapabilityName = Literal[
    "json_schema",
    "json_object",
    "regex",
    "grammar",
    "choices",
    "tools",
    "images",
    "logprobs",
    "reasoning_effort",
    "adapters",
    "token_input",
    "text_input",
    "suffix",
]
TaskName = Literal["chat", "classify", "tag", "extract", "summarize", "translate", "write", "code", "reason"]


class PriceSettings(Section):
    """What a target charges, in USD per million tokens."""

    input_usd_per_mtok: float = Field(ge=0)
    output_usd_per_mtok: float = Field(ge=0)


class TargetSettings(Section):
    """Something that can answer, with its declared properties. What is not declared is unknown, not zero."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", description="how requests, logs and ledger call it")
    kind: Literal["local", "cloud"]
    address: str = Field(description="host:port of the local_engine or cloud_proxy that serves it")
    model: str = Field("", description="the model's name there; empty: the one it serves")
    region: str = Field("site", description="where content goes when it is used")
    context_window: int | None = Field(None, gt=0, description="tokens, prompt and answer together")
    capabilities: frozenset[CapabilityName] = frozenset()
    quantization_bits: int | None = Field(None, ge=1, le=32)
    tier: Literal["small", "large"] | None = Field(None, description="default: local small, cloud large")
    price: PriceSettings | None = None
    first_token_floor_s: float = Field(1.0, gt=0, description="least time it is given for its first token")


class PolicySettings(Section):
    """The rules of routing. See docs/policy.md."""

    revision: str = Field("1", description="named in every stamp; change it when the rules change")
    residency: Literal["any", "regions", "local_only"] = "any"
    regions: frozenset[str] = Field(frozenset(), description="with residency `regions`: where content may go")
    local_context_limit: int = Field(4096, gt=0, description="prompts of more tokens prefer the cloud")
    sensitivity: Literal["public", "internal", "confidential", "restricted"] = Field(
        "internal", description="of content whose caller says nothing"
    )
    complex_prefers: Literal["small", "large"] = Field("large", description="tier that complex requests try first")
    cloud_sensitivity_limit: Literal["public", "internal", "confidential", "restricted"] = Field(
        "internal", description="content more sensitive than this stays on the site"
    )
    min_bits_for: dict[TaskName, int] = Field(
        default={"code": 4, "reason": 4, "extract": 4},
        description="fewest quantization bits a local target may have for a task",
    )
    constrained_retries: int = Field(1, ge=0, le=3, description="second tries at one target after a refused answer")
    first_token_share: float = Field(0.5, gt=0, le=1, description="share of the deadline one target may stay silent")
    idle_s: float = Field(30.0, gt=0, description="longest silence between two tokens")
    probe_tokens: int = Field(8, gt=0, description="tokens held in PROBED delivery, at most for the share above")


class ValidatorSettings(Section):
    """The validator this router asks."""

    address: str
    timeout_s: float = Field(5.0, gt=0)


class LedgerSettings(Section):
    """Where attempts are accounted."""

    url: str = Field("sqlite:///spillway-ledger.sqlite", description="SQLAlchemy URL")
    flush_s: float = Field(0.5, gt=0, description="longest time a row waits in memory")
    max_pending: int = Field(100_000, gt=0, description="rows kept in memory while the database is away")


class RouterSettings(ServiceSettings):
    """Section `router` of the configuration."""

    server: ServerSettings = ServerSettings(listen="127.0.0.1:7070")
    name: str = "router"
    targets: tuple[TargetSettings, ...] = Field(min_length=1)
    policy: PolicySettings = PolicySettings()
    validator: ValidatorSettings | None = Field(None, description="absent: nothing is validated")
    ledger: LedgerSettings | None = Field(None, description="absent: attempts are logged, not kept")
    http: HttpSettings = HttpSettings()
    target_key: str | None = Field(None, repr=False, description="key sent to targets and validator")

    @model_validator(mode="after")
    def _names_are_unique(self) -> RouterSettings:
        names = [target.name for target in self.targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"targets: named twice: {', '.join(twice)}")
        return self
