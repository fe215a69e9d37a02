"""Settings of the cloud proxy: the providers it may use, their keys' places, limits and prices."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StrictInt, field_validator, model_validator

from services.cloud_proxy.audit_settings import AuditSettings
from services.cloud_proxy.billing import OnCancel
from services.cloud_proxy.http_proxy import is_address
from services.cloud_proxy.parameters import ParameterName
from services.cloud_proxy.presets import PresetName, filled, preset_of
from spillway.settings import ScaledSettings, Section, ServerSettings, Share
from spillway.template.rate import rate_limit
from spillway.worker import Worker

CapabilityName = Literal[
    "json_schema",
    "json_object",
    "tools",
    "images",
    "logprobs",
    "reasoning_effort",
    "text_input",
    "suffix",
    "prefill",
    "embeddings",
    "token_input",
]
WireName = Literal["openai", "openai-responses", "anthropic", "mistral", "gemini"]
BASE_URLS: Mapping[str, str] = {
    "openai": "https://api.openai.com/v1",
    "openai-responses": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "mistral": "https://api.mistral.ai/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
}
NO_PROXY = "none"
PrefillName = Literal["plain", "prefix", "continue_final_message"]
ThinkingName = Literal["adaptive", "always", "budget"]
WITHOUT: Mapping[str, frozenset[str]] = {"anthropic": frozenset({"json_object"})}
"""Of what models are taken to do where they declare nothing: what nobody can ask for in a wire format."""
SensitivityName = Literal["public", "internal", "confidential", "restricted"]
Count = Annotated[StrictInt, Field(gt=0)]
Days = Annotated[StrictInt, Field(ge=0)]


class RateSettings(Section):
    """USD per million tokens."""

    input_usd_per_mtok: float = Field(ge=0)
    output_usd_per_mtok: float = Field(ge=0)
    cached_input_usd_per_mtok: float | None = Field(None, ge=0, description="absent: as other input")
    cache_write_usd_per_mtok: float | None = Field(None, ge=0, description="absent: as other input")


class LongContextSettings(RateSettings):
    """What a call with a long prompt charges instead, all of it."""

    above_tokens: Count = Field(description="prompts of more tokens than this are at these prices")


class PriceSettings(RateSettings):
    """What a model charges."""

    as_of: date | None = Field(None, description="day on which this was known to hold, YYYY-MM-DD")
    long_context: LongContextSettings | None = None


class LimitSettings(Section):
    """What may pass of one kind. Minutes are any 60 seconds, days are those of UTC. Absent: no limit."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = Field(None, description="prompt and answer")
    input_tokens_per_minute: Count | None = Field(None, description="prompt")
    output_tokens_per_minute: Count | None = Field(None, description="answer")
    concurrency: Count | None = Field(None, description="calls at the provider at once")
    usd_per_day: float | None = Field(None, gt=0, description="by the prices known here")


class TenantLimitSettings(Section):
    """What each tenant may take of a provider."""

    default: LimitSettings = Field(LimitSettings(), description="each tenant that is not named")
    tenants: Mapping[str, LimitSettings] = Field({}, description="instead of the default")

    def of(self, tenant: str) -> LimitSettings:
        """Return what holds for `tenant`."""
        return self.tenants.get(tenant, self.default)


class Limited(Section):
    """What has limits. `rate_limit` says them in words: `1000 requests/min`, or a list of such."""

    limits: LimitSettings = LimitSettings()

    @model_validator(mode="before")
    @classmethod
    def _reads_rates(cls, told: Any) -> Any:
        if not isinstance(told, Mapping) or told.get("rate_limit") is None:
            return told
        try:
            rates = rate_limit(told["rate_limit"])
        except ValueError as error:
            raise ValueError(f"rate_limit: {error}") from None
        limits = told.get("limits") or {}
        if isinstance(limits, Mapping) and (twice := sorted(rates.keys() & limits.keys())):
            raise ValueError(f"rate_limit: limits already has {', '.join(twice)}")
        rest = {name: value for name, value in told.items() if name != "rate_limit"}
        return {**rest, "limits": {**rates, **limits}} if isinstance(limits, Mapping) else rest


class ModelSettings(Limited):
    """One model of a provider. What is not declared is unknown."""

    name: str = Field(min_length=1, description="as the provider calls it")
    context_window: Count | None = Field(None, description="tokens, prompt and answer together")
    capabilities: frozenset[CapabilityName] = frozenset({"json_schema", "json_object", "tools", "text_input"})
    thinking: ThinkingName | None = Field(
        None,
        description="how a Claude thinks: within a budget of tokens (up to 4.5), adaptive, or always;"
        " absent: found by its name",
    )
    price: PriceSettings | None = Field(
        None, description="absent: the provider's, else looked up in the price list, else unknown"
    )
    region: str = Field("", description="where content goes; absent: as the provider")
    retention_days: Days | None = Field(None, description="how long it is kept there; absent: as the provider")
    max_sensitivity: SensitivityName | None = Field(None, description="absent: as the provider")

    @model_validator(mode="after")
    def _generates_or_embeds(self) -> ModelSettings:
        embeds = "embeddings" in self.capabilities
        if embeds and (others := sorted(self.capabilities - {"embeddings", "token_input"})):
            raise ValueError(f"capabilities: a model that embeds generates nothing: remove {', '.join(others)}")
        if not embeds and "token_input" in self.capabilities:
            raise ValueError("capabilities: token_input goes with embeddings: providers take no prompts as tokens")
        return self


class KeySettings(Section):
    """Where a key is: in an environment variable, or in a file."""

    env: str | None = Field(None, min_length=1)
    file: Path | None = None

    @model_validator(mode="after")
    def _is_in_one_place(self) -> KeySettings:
        if (self.env is None) == (self.file is None):
            raise ValueError("set env or file, one of the two")
        return self


class ProviderSettings(Limited):
    """One provider."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="its models are called NAME/MODEL")
    preset: PresetName | None = Field(
        None, description="provider that is known: sets what is usual there, where it is not said here"
    )
    kind: WireName = Field("openai", description="wire format")
    base_url: str = Field("", description="up to and without /chat/completions; absent: the one of the wire format")
    key_env: str | None = Field(None, description="environment variable that holds the key")
    key_file: Path | None = Field(None, description="file that holds the key; mode 0600")
    keys: tuple[KeySettings, ...] = Field((), description="further keys, which take turns")
    keys_dir: Path | None = Field(None, description="folder of secrets: every file in it is a key")
    region: str = Field(min_length=1, description="where content goes; compared with the regions of a data policy")
    retention_days: Days | None = Field(
        None, description="how long what is sent is kept there; 0: not at all; absent: unknown"
    )
    max_sensitivity: SensitivityName = Field("internal", description="most sensitive content it may be sent")
    simulated: bool = Field(False, description="not the provider itself but something that speaks its wire format")
    models: tuple[ModelSettings, ...] = Field(min_length=1)
    tenant_limits: TenantLimitSettings = TenantLimitSettings()
    limits_are_per: Literal["provider", "model"] = Field(
        "provider", description="what this provider's headers and its refusals for a while speak of"
    )
    unknown_price: Literal["refuse", "allow"] = Field("refuse", description="where usd_per_day limits it")
    max_waiting: Count = Field(1000, description="calls in line for a limit")
    max_wait_s: float = Field(0.0, ge=0, description="longest wait for a limit; 0: answer at once, others may be free")
    max_closed_s: float = Field(300.0, ge=0, description="longest time a provider's own Retry-After keeps it closed")
    default_answer_tokens: Count = Field(1024, description="reserved for an answer whose request sets no max_tokens")
    connect_timeout_s: float = Field(5.0, gt=0)
    idle_s: float = Field(60.0, gt=0, description="longest silence of the provider before the answer's first words")
    stall_s: float = Field(10.0, gt=0, description="longest silence within an answer: others may still have time")
    max_connections: Count = 256
    proxy: str | None = Field(
        None, repr=False, description="http(s)://[user:password@]host:port, or none; absent: HTTPS_PROXY, NO_PROXY"
    )
    ca_bundle: Path | None = Field(None, description="PEM file of trusted authorities, in place of the system's")
    client_cert: Path | None = Field(None, description="PEM file of a certificate of ours and its key, to show")
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = Field(
        "max_completion_tokens", description="what this provider calls it"
    )
    extended_sampling: bool = Field(
        False, description="it also takes vLLM's parameters: top_k, min_p, repetition_penalty, min_tokens, ..."
    )
    prefill: PrefillName | None = Field(
        None,
        description="how a last message of the assistant's is continued: as it is (plain), with `prefix: true`"
        " (Mistral, DeepSeek's beta) or with `continue_final_message` (vLLM); absent: it is not",
    )
    stream_usage: bool = Field(
        True, description="it knows `stream_options`; false: some compatible servers refuse them"
    )
    prompt_cache: bool | None = Field(
        None,
        description="it knows `prompt_cache_key` and `prompt_cache_retention`; else that hint is left out; absent:"
        " OpenAI itself does, compatible servers do not",
    )
    reasoning_summary: Literal["auto", "concise", "detailed"] | None = Field(
        None,
        description="openai-responses: models declared with reasoning_effort tell a summary of their reasoning; absent:"
        " none is asked for, as OpenAI tells it to verified organizations alone",
    )
    key_header: Literal["authorization", "api-key"] = Field(
        "authorization", description="header that holds the key, as Bearer in `authorization`; of OpenAI's formats"
    )
    api_version: str | None = Field(
        None, pattern=r"^[A-Za-z0-9.-]+$", description="of Azure's dated API: its paths name deployment and version"
    )
    lacks: frozenset[ParameterName] = Field(
        frozenset(), description="parameters that it does not have: a request for one is refused here"
    )
    price: PriceSettings | None = Field(None, description="of models that state none; absent: the price list's")
    price_list: str | None = Field(None, description="provider id of genai-prices; absent: found by base_url")
    billing_on_cancel: OnCancel | None = Field(
        None, description="billed of an answer whose reader left; absent: what is known of base_url (docs/money.md)"
    )

    @property
    def real_url(self) -> str:
        """The address of the provider that this one is, or stands for: what it charges goes by that."""
        if not self.simulated:
            return self.base_url
        return str(preset_of(self.preset).settings.get("base_url") or BASE_URLS[self.kind])

    @model_validator(mode="before")
    @classmethod
    def _has_what_is_usual(cls, told: Any) -> Any:
        if not isinstance(told, Mapping):
            return told
        told = filled(told)
        if not told.get("base_url"):
            return {**told, "base_url": BASE_URLS.get(str(told.get("kind", "openai")), "")}
        return told

    @model_validator(mode="before")
    @classmethod
    def _declares_what_the_wire_can(cls, told: Any) -> Any:
        if not isinstance(told, Mapping) or str(told.get("kind")) not in WITHOUT:
            return told
        default = ModelSettings.model_fields["capabilities"].default - WITHOUT[told["kind"]]
        models = [
            {"capabilities": default, **model} if isinstance(model, Mapping) else model
            for model in told.get("models") or ()
        ]
        return {**told, "models": models}

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        if not is_address(url):
            raise ValueError("must be http://... or https://...")
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no user, password, query or fragment: keys come from key_env or key_file")
        return url.rstrip("/")

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, url: str | None) -> str | None:
        if url is not None and url != NO_PROXY and not is_address(url):
            raise ValueError(f"must be http://host:port, https://host:port or {NO_PROXY}")
        return url

    @model_validator(mode="after")
    def _is_consistent(self) -> ProviderSettings:
        if self.key_env and self.key_file:
            raise ValueError("set key_env or key_file, not both: several keys are listed in keys")
        places = [self.key_env, self.key_file, *(key.env or key.file for key in self.keys)]
        if twice := sorted({str(place) for place in places if place and places.count(place) > 1}):
            raise ValueError(f"keys: named twice: {', '.join(twice)}")
        names = [model.name for model in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"models: named twice: {', '.join(twice)}")
        responds = self.kind == "openai-responses"
        for name, set_, known in (
            ("prefill", self.prefill, not responds),
            ("extended_sampling", self.extended_sampling, not responds),
            ("reasoning_summary", self.reasoning_summary, responds),
        ):
            if set_ and not known:
                raise ValueError(f"{name}: the wire format {self.kind} has no such thing")
        if self.prefill is None and any("prefill" in model.capabilities for model in self.models):
            raise ValueError("models: capability prefill needs `prefill`, the form this provider takes it in")
        return self

    @property
    def hints_of_prompt_cache(self) -> bool:
        """Whether OpenAI's parameters of its prompt cache are sent."""
        known = self.prompt_cache
        return known if known is not None else self.base_url == BASE_URLS["openai"]


class CloudProxySettings(ScaledSettings):
    """Section `cloud_proxy` of the configuration."""

    server: ServerSettings = ServerSettings(listen="127.0.0.1:7072")
    providers: tuple[ProviderSettings, ...] = Field(min_length=1)
    replicas: Count = Field(
        1,
        description="proxies that share the limits, at least: each takes its share while the store is away. Each counts"
        " as many as it has workers",
    )
    audit: AuditSettings = AuditSettings()
    window_s: float = Field(0.02, ge=0, le=1, description="merging window of deltas where a request sets none")

    def of(self, worker: Worker, shared: Share) -> Self:
        told = {"replicas": self.replicas * worker.count, "audit": self.audit.of(worker)}
        return super().of(worker, shared).model_copy(update=told)

    @model_validator(mode="after")
    def _names_are_unique(self) -> CloudProxySettings:
        names = [provider.name for provider in self.providers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"providers: named twice: {', '.join(twice)}")
        return self
