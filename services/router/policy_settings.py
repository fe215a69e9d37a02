"""The policy as data: targets, the rules that choose among them, and who gets which. See docs/policy.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spillway.generation import MAX_SAMPLES
from spillway.settings import Section

CapabilityName = Literal[
    "json_schema",
    "json_object",
    "regex",
    "grammar",
    "choices",
    "tools",
    "images",
    "logprobs",
    "prompt_logprobs",
    "reasoning_effort",
    "adapters",
    "token_input",
    "text_input",
    "suffix",
    "prefill",
    "embeddings",
]
TaskName = Literal["chat", "classify", "tag", "extract", "summarize", "translate", "write", "code", "reason"]
CategoryName = Literal["routine", "complex", "safety_critical"]
SensitivityName = Literal["public", "internal", "confidential", "restricted"]
TierName = Literal["small", "large"]


class PriceSettings(Section):
    """What a target charges, in USD per million tokens."""

    input_usd_per_mtok: float = Field(ge=0)
    output_usd_per_mtok: float = Field(ge=0)


class TargetSettings(Section):
    """Something that can answer, with its declared properties. What is not declared is unknown, not zero."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", description="how requests, logs and ledger call it")
    kind: Literal["local", "cloud"]
    address: str = Field(description="host:port of the local_engine, cloud_proxy or router that serves it")
    resolve: bool | None = Field(
        None,
        description="each address that `address` resolves to is a target of its own; "
        "default: where it is written dns:///host:port, ipv4:... or ipv6:...",
    )
    router: bool = Field(False, description="another router is there, which chooses among its own targets")
    model: str = Field("", description="the model's name there; empty: the one it serves")
    region: str = Field("site", description="where content goes when it is used")
    retention_days: int | None = Field(
        None, ge=0, description="how long what is sent is kept there; 0: not at all; absent: unknown"
    )
    weights: str = Field(
        "", description="names weights, template and tokenizer; targets of one name go on with each other's streams"
    )
    context_window: int | None = Field(None, gt=0, description="tokens, prompt and answer together")
    capabilities: frozenset[CapabilityName] = frozenset()
    quantization_bits: int | None = Field(None, ge=1, le=32)
    tier: TierName | None = Field(None, description="default: local small, cloud large")
    price: PriceSettings | None = None
    concurrency: int | None = Field(
        None, gt=0, description="attempts at it at once, by this router, one for each worker at least; absent: no bound"
    )
    first_token_floor_s: float = Field(1.0, gt=0, description="least time it is given for its first token")


class BudgetSettings(Section):
    """What all requests of one tenant may cost, on all routers that share a store. See docs/admission.md."""

    usd_per_day: float | None = Field(None, ge=0, le=1_000_000, description="UTC days")
    usd_per_month: float | None = Field(None, ge=0, le=1_000_000, description="UTC months")
    when_spent: Literal["local", "refuse"] = Field(
        "local", description="local: what costs nothing answers; refuse: COST_CAP where something else would come first"
    )
    unknown_price: Literal["leave_out", "allow"] = Field(
        "leave_out", description="allow: targets of unknown price are used, and counted by what they say they cost"
    )

    @model_validator(mode="after")
    def _caps_something(self) -> BudgetSettings:
        if self.usd_per_day is None and self.usd_per_month is None:
            raise ValueError("give `usd_per_day`, `usd_per_month`, or both")
        return self


class RedactSettings(Section):
    """What is replaced by placeholders where content leaves the site. See docs/policy.md."""

    kinds: Literal["all"] | Annotated[frozenset[str], Field(min_length=1)] = Field(
        "all", description="kinds of findings that are replaced"
    )
    releases: Literal["all"] | frozenset[str] | None = Field(
        None, description="of these, kinds that no longer keep content on the site; absent: every one that is replaced"
    )

    @model_validator(mode="after")
    def _releases_what_it_replaces(self) -> RedactSettings:
        if self.kinds != "all" and self.releases is not None and not set(self.releases) <= self.kinds:
            raise ValueError("`releases` names what `kinds` does not: it would leave as it is")
        return self


class PolicySettings(Section):
    """How requests are routed. A named policy states only what differs from the ground it is laid on."""

    residency: Literal["any", "regions", "local_only"] = "any"
    regions: frozenset[str] = Field(frozenset(), description="with residency `regions`: where content may go")
    max_retention_days: int | None = Field(
        None, ge=0, description="longest time content may be kept where it goes; absent: any time"
    )
    sensitivity: SensitivityName = Field("internal", description="of content whose caller says nothing")
    cloud_sensitivity_limit: SensitivityName = Field(
        "internal", description="content more sensitive than this stays on the site"
    )
    inspect: bool = Field(
        False, description="the validator reads prompts first, and what it finds raises their sensitivity"
    )
    sensitivity_of: dict[str, SensitivityName] = Field(
        default={},
        description="how sensitive kinds of findings are, else: card, iban, national_id, secret and kinds that are not "
        "known `restricted`; phone, email, ip_address `confidential`",
    )
    redact: RedactSettings | None = Field(
        None, description="what leaves the site leaves with placeholders; absent: as it is, unless the caller asks"
    )
    order: tuple[str, ...] = Field(
        (), description="the fallback chain: targets, tiers or kinds, first to last; empty: by category and price"
    )
    local_context_limit: int = Field(4096, gt=0, description="prompts of more tokens prefer the cloud")
    complex_prefers: TierName = Field("large", description="tier that complex requests try first")
    min_bits_for: dict[TaskName, int] = Field(
        default={"code": 4, "reason": 4, "extract": 4},
        description="fewest quantization bits a local target may have for a task",
    )
    max_cost_usd: float | None = Field(None, ge=0, description="dearest answer, as estimated before the call")
    unknown_price: Literal["leave_out", "allow"] = Field(
        "leave_out", description="under `max_cost_usd`; under a caller's own cap unknown prices are always left out"
    )
    budget: BudgetSettings | None = Field(None, description="of the tenant; absent: none")
    delivery: Literal["live", "probed", "committed"] | None = Field(
        None, description="default: committed where validation is on, else live"
    )
    validation: Literal["off", "preferred", "required"] | None = Field(
        None, description="default: required for JSON and judgements, else off"
    )
    judgements: frozenset[str] = Field(
        frozenset(), description="judgement policies of the validator that answers are held to, besides the caller's"
    )
    repair: Literal["allowed", "forbidden"] = Field("allowed", description="whether broken JSON may be mended")
    strategy: Literal["direct", "cascade", "hedge", "draft_refine", "draft_verify"] = "direct"
    confidence_threshold: float = Field(0.8, ge=0, le=1, description="cascade: least confidence of a kept answer")
    samples: int = Field(
        1, ge=1, le=MAX_SAMPLES, description="cascade: answers of a target before the last, to see whether they agree"
    )
    judge: str = Field("", description="cascade: the target that is asked whether an answer is right; empty: none")
    hedge_after_s: float = Field(1.0, gt=0, description="hedge: lateness of the first token that starts the next")
    constrained_retries: int = Field(1, ge=0, le=3, description="second tries at one target after a refused answer")
    max_retries_per_target: int = Field(
        1, ge=0, le=3, description="second tries at one target that failed within a second, before the commit"
    )
    first_token_share: float = Field(0.4, gt=0, le=1, description="share of the deadline one target may stay silent")
    idle_s: float = Field(30.0, gt=0, description="longest silence between two tokens")
    when_all_open: Literal["try", "wait", "fail"] = Field(
        "try", description="when the breakers of all targets that may answer are open"
    )
    continue_on: Literal["same_weights", "any_model"] = Field(
        "same_weights", description="who may go on with a stream that was cut; any_model is told in RouteChanged"
    )
    embed_with: Literal["one_model", "any_model"] = Field(
        "one_model", description="whose vectors a request may get; any_model: where one model's targets fail, another's"
    )
    max_attempts: int = Field(8, gt=0, description="attempts for one request, at all routers it passes together")
    probe_tokens: int = Field(8, gt=0, description="tokens held in PROBED delivery, at most for the share above")
    context: Literal["refuse", "larger", "slide", "summarize", "passages", "map_reduce"] = Field(
        "larger", description="what is done when a prompt does not fit"
    )
    keep_last_turns: int = Field(4, ge=1, description="summarize: newest turns that stay as they are, if they fit")
    summary_tokens: int = Field(256, ge=16, description="summarize, map_reduce: longest summary or note on one part")
    chunk_tokens: int = Field(1024, ge=64, description="summarize, map_reduce: longest part that is read at once")
    max_chunks: int = Field(32, ge=2, description="summarize, map_reduce: more parts than this are not read")


class MatchSettings(Section):
    """Facts that a request must have, all of them. Any word of a list matches it; what is absent matches anything."""

    tasks: frozenset[TaskName] | None = None
    categories: frozenset[CategoryName] | None = None
    labels: frozenset[str] | None = Field(None, description="free words of the caller's")
    models: frozenset[str] | None = Field(None, description="what the caller names as its model")
    tenants: frozenset[str] | None = None
    priority: Literal["interactive", "background"] | None = None
    sensitivity_at_least: SensitivityName | None = None
    needs: frozenset[CapabilityName] | None = Field(None, description="every one of them is needed")
    json_answer: bool | None = Field(None, alias="json", description="the answer is to be JSON")
    injection: bool | None = Field(
        None, description="inspection found signs that a text commands the model; what is not inspected has none"
    )
    prompt_tokens_over: int | None = Field(None, ge=0, description="counted where that is known, else estimated")
    prompt_tokens_up_to: int | None = Field(None, ge=0)


class RuleSettings(Section):
    """The first rule that a request matches says which named policy is laid over its tenant's."""

    name: str = Field(min_length=1)
    when: MatchSettings = MatchSettings()
    use: str


class AliasSettings(Section):
    """What a model's name, as callers say it, stands for."""

    model: str = Field("", description="the model or target asked for instead; empty: the policy decides")
    use: str = Field("", description="a named policy")

    @model_validator(mode="after")
    def _stands_for_something(self) -> AliasSettings:
        if not self.model and not self.use:
            raise ValueError("give `model`, `use`, or both")
        return self


class TenantSettings(Section):
    """What one tenant gets instead of the ground."""

    use: str


class PolicyDocument(Section):
    """All of it: in section `router`, or in the file that `router.policy_file` names and that is read as it changes."""

    revision: str = Field("", description="named in every stamp; empty: a digest of the document")
    include: tuple[str, ...] = Field((), description="ready policies and rules, laid under those stated here")
    targets: tuple[TargetSettings, ...] = ()
    policy: PolicySettings = Field(PolicySettings(), description="the ground")
    policies: dict[str, PolicySettings] = Field(default={}, description="named policies")
    rules: tuple[RuleSettings, ...] = ()
    aliases: dict[str, AliasSettings] = Field(default={}, description="model names of callers")
    tenants: dict[str, TenantSettings] = Field(default={}, description="by the tenant of the key")
