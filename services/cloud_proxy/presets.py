"""What is usual at providers that are known by name: their addresses, and how each differs from OpenAI.

As their documentation and their clients tell, November 2026. What a configuration states wins over all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from services.cloud_proxy.parameters import ParameterName
from spillway import errors
from spillway.openai.answer import COST, Shape, as_it_is
from spillway.openai.errors import PROVIDERS, Row, Table, row

PresetName = Literal[
    "anthropic",
    "azure",
    "baseten",
    "cerebras",
    "deepseek",
    "deepseek-beta",
    "fireworks",
    "gemini",
    "groq",
    "mistral",
    "modal",
    "openai",
    "openrouter",
    "replicate",
    "together",
    "xai",
]
Settings = Mapping[str, Any]
JSON_OBJECT_ALONE = frozenset({"json_object", "tools", "text_input"})
SCHEMA_ALONE = frozenset({"json_schema", "tools", "text_input"})
NANO = 10**9


@dataclass(frozen=True, slots=True)
class Preset:
    """What is usual at one provider.

    `settings` are those of `ProviderSettings`, `capabilities` those of its models, each where the configuration states
    none. `address`: how a base_url looks where every customer has one of their own. `shape` and `table`: how answers
    and errors differ from OpenAI's.
    """

    settings: Settings = field(default_factory=dict)
    capabilities: frozenset[str] | None = None
    address: str = ""
    shape: Shape = as_it_is
    table: Table = PROVIDERS


def _part(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = told.get(name)
    return part if isinstance(part, dict) else {}


def _hits_are_cached(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """DeepSeek counts the prompt's cached tokens beside the others."""
    usage = _part(told, "usage")
    if "prompt_cache_hit_tokens" in usage:
        usage.setdefault("prompt_tokens_details", {"cached_tokens": usage["prompt_cache_hit_tokens"]})
    return told


def _out_of_its_own(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Groq tells some of a stream's usage, and why it ended early, in an object of its own."""
    own = _part(told, "x_groq")
    if error := own.get("error"):
        return {"error": error if isinstance(error, Mapping) else {"message": error}}
    return {"usage": own["usage"], **told} if own.get("usage") else told


def _with_cost(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """OpenRouter tells the cost in USD, and in metadata what is behind a 402 or a 403.

    A 403 may be a prompt that moderation flagged. A 402 may be money set aside for requests under way, free in a while.
    """
    usage, error = _part(told, "usage"), _part(told, "error")
    if isinstance(cost := usage.get("cost"), float | int) and isfinite(nano := cost * NANO):
        usage[COST] = round(nano)
    metadata = _part(error, "metadata")
    if "flagged_input" in metadata:
        error["type"] = "content_filter"
    elif metadata.get("limit_source") == "openrouter_in_flight_budget":
        error["type"] = "rate_limit_exceeded"
    return told


def _table(*rows: Row) -> Table:
    return Table((*rows, *PROVIDERS.rows), PROVIDERS.otherwise)


def _settings(base_url: str | None = None, *, lacks: frozenset[ParameterName] | None = None, **more: Any) -> Settings:
    told = {"base_url": base_url, "lacks": lacks, **more}
    return {name: value for name, value in told.items() if value is not None}


_DEEPSEEK_LACKS: frozenset[ParameterName] = frozenset({"json_schema", "logit_bias", "n", "seed"})
"""It reads over parameters that it does not know."""
_VLLM_ALONE: frozenset[ParameterName] = frozenset({"min_tokens", "stop_tokens"})
"""Of the extended sampling, what resellers do not take."""

PRESETS: Mapping[str, Preset] = {
    "anthropic": Preset(_settings(kind="anthropic", price_list="anthropic"), SCHEMA_ALONE),
    "azure": Preset(
        _settings(key_header="api-key", price_list="azure"),
        address="https://RESOURCE.openai.azure.com/openai/v1, or .../openai with api_version",
    ),
    "baseten": Preset(
        _settings("https://inference.baseten.co/v1", max_tokens_field="max_tokens", price_list="baseten"),
    ),
    "cerebras": Preset(
        _settings(
            "https://api.cerebras.ai/v1",
            lacks=frozenset({"frequency_penalty", "logit_bias", "presence_penalty"}),
            price_list="cerebras",
        )
    ),
    "deepseek": Preset(
        _settings(
            "https://api.deepseek.com/v1", lacks=_DEEPSEEK_LACKS, max_tokens_field="max_tokens", price_list="deepseek"
        ),
        JSON_OBJECT_ALONE,
        shape=_hits_are_cached,
    ),
    "deepseek-beta": Preset(
        _settings(
            "https://api.deepseek.com/beta",
            lacks=_DEEPSEEK_LACKS,
            max_tokens_field="max_tokens",
            prefill="prefix",
            price_list="deepseek",
        ),
        JSON_OBJECT_ALONE | {"prefill"},
        shape=_hits_are_cached,
    ),
    "fireworks": Preset(
        _settings(
            "https://api.fireworks.ai/inference/v1",
            lacks=_VLLM_ALONE,
            max_tokens_field="max_tokens",
            extended_sampling=True,
            price_list="fireworks",
        )
    ),
    "gemini": Preset(_settings(kind="gemini", price_list="google")),
    "groq": Preset(
        _settings(
            "https://api.groq.com/openai/v1",
            lacks=frozenset({"logit_bias", "logprobs", "message_name", "n"}),
            price_list="groq",
        ),
        JSON_OBJECT_ALONE,
        shape=_out_of_its_own,
        table=_table(
            row(errors.TargetBusy, "capacity_exceeded", 498),
            row(errors.TargetModelMissing, "model_decommissioned"),
            # The model broke the form that was asked for: another may keep it.
            row(errors.ProviderError, "tool_use_failed", "json_validate_failed"),
        ),
    ),
    "mistral": Preset(_settings(kind="mistral", prefill="prefix", price_list="mistral")),
    "modal": Preset(
        _settings(max_tokens_field="max_tokens", extended_sampling=True, price_list="modal"),
        address="https://WORKSPACE--APP-FUNCTION.modal.run/v1, or https://inference.REGION.modal.direct/v1",
    ),
    "openai": Preset(_settings("https://api.openai.com/v1", price_list="openai")),
    "openrouter": Preset(
        _settings(
            "https://openrouter.ai/api/v1",
            lacks=_VLLM_ALONE,
            max_tokens_field="max_tokens",
            extended_sampling=True,
            price_list="openrouter",
        ),
        shape=_with_cost,
    ),
    "replicate": Preset(
        _settings(
            "https://openai-proxy.replicate.com/v1",
            lacks=frozenset({"logprobs", "n", "response_format", "tool_choice", "tools"}),
            max_tokens_field="max_tokens",
        ),
        frozenset({"text_input"}),
    ),
    "together": Preset(
        _settings(
            "https://api.together.xyz/v1",
            lacks=_VLLM_ALONE | {"logprobs"},
            max_tokens_field="max_tokens",
            extended_sampling=True,
            price_list="together",
        ),
        table=_table(row(errors.ContextLengthExceeded, 403)),
    ),
    "xai": Preset(_settings("https://api.x.ai/v1", price_list="x-ai")),
}


def preset_of(name: str | None) -> Preset:
    """Return the preset called `name`; one without a word for None."""
    return PLAIN if name is None else PRESETS[name]


def filled(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a provider, `told`, with what its preset says where they say nothing.

    A preset that is unknown is left for the check of its name. Raises ValueError where the preset needs an address and
    there is none.
    """
    preset = PRESETS.get(str(told.get("preset")))
    if preset is None:
        return dict(told)
    if preset.address and not told.get("base_url"):
        raise ValueError(f"base_url: preset {told['preset']} needs yours, as in {preset.address}")
    models = told.get("models")
    if preset.capabilities is not None and isinstance(models, list | tuple):
        usual = {"capabilities": preset.capabilities}
        models = [{**usual, **model} if isinstance(model, Mapping) else model for model in models]
        told = {**told, "models": models}
    # An address that is empty is none: content goes to the provider that is named, never to another kind's usual one.
    return {**preset.settings, **{name: value for name, value in told.items() if value is not None and value != ""}}


PLAIN = Preset()
"""That of a provider that names none."""
