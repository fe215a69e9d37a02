"""Providers that the template may call by name: presets of the cloud proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

UNKNOWN_REGION = "unknown"
"""No data policy that names regions lets content go there."""
CAPABILITIES = ("json_schema", "json_object", "tools", "text_input")
"""What a model in the cloud can do, as far as is known of most."""
OBJECTS_ALONE = ("json_object", "tools", "text_input")
SCHEMAS_ALONE = ("json_schema", "tools", "text_input")


class Known(NamedTuple):
    """Which variable holds a provider's key by custom, where it is, and how its models are called."""

    key_env: str
    region: str = UNKNOWN_REGION
    models: tuple[str, ...] = ()
    """How the names of its own models begin."""
    resells: bool = False
    """It serves other makers' models: MAKER/MODEL is a model of its own there."""
    capabilities: tuple[str, ...] = CAPABILITIES
    elsewhere: bool = False
    """Every customer has an address of their own there."""


PROVIDERS: Mapping[str, Known] = {
    "openai": Known("OPENAI_API_KEY", "us", ("gpt-", "chatgpt-", "o1", "o3", "o4")),
    "anthropic": Known("ANTHROPIC_API_KEY", models=("claude-",), capabilities=SCHEMAS_ALONE),
    "mistral": Known("MISTRAL_API_KEY", "eu", ("mistral-", "ministral-", "codestral-", "magistral-", "devstral-")),
    "gemini": Known("GEMINI_API_KEY", models=("gemini-",)),
    "deepseek": Known("DEEPSEEK_API_KEY", "cn", ("deepseek-",), capabilities=OBJECTS_ALONE),
    "xai": Known("XAI_API_KEY", models=("grok-",)),
    "groq": Known("GROQ_API_KEY", resells=True, capabilities=OBJECTS_ALONE),
    "together": Known("TOGETHER_API_KEY", resells=True),
    "fireworks": Known("FIREWORKS_API_KEY", resells=True),
    "openrouter": Known("OPENROUTER_API_KEY", resells=True),
    "cerebras": Known("CEREBRAS_API_KEY", resells=True),
    "baseten": Known("BASETEN_API_KEY", resells=True),
    "replicate": Known("REPLICATE_API_TOKEN", resells=True, capabilities=("text_input",)),
    "azure": Known("AZURE_OPENAI_API_KEY", elsewhere=True),
    "modal": Known("MODAL_API_KEY", resells=True, elsewhere=True),
}
NOT_YET: Mapping[str, tuple[str, ...]] = {"bedrock": (), "cohere": ("command-",)}
"""Providers with a wire format of their own that is not spoken yet, and how their models' names begin."""


def placed(entry: str, main: str, *, resells: bool) -> tuple[str, str]:
    """Return provider and model of `entry`, a fallback beside the provider `main`.

    It is PROVIDER/MODEL, or a model whose name tells whose it is, else a model of `main`. Where `main` serves other
    makers' models, it is always one of `main`. Raises ValueError for a provider that cannot be called yet.
    """
    if resells:
        return main, entry
    head, slash, rest = entry.partition("/")
    if slash and rest and head.lower() in {main, *PROVIDERS, *NOT_YET}:
        provider, model = head.lower(), rest
    else:
        makers = {name: known.models for name, known in PROVIDERS.items()} | dict(NOT_YET)
        telling = (name for name, starts in makers.items() if starts and entry.lower().startswith(starts))
        provider, model = next(telling, main), entry
    refuse(provider)
    if provider != main and PROVIDERS[provider].elsewhere:
        raise ValueError(f"{provider} has an address of your own, which only the main provider's `endpoint` can tell")
    return provider, model


def refuse(provider: str) -> None:
    """Raise ValueError if `provider` is one whose wire format the cloud proxy does not speak."""
    if provider in NOT_YET:
        known = ", ".join(PROVIDERS)
        raise ValueError(f"{provider} has a wire format of its own, which is not spoken yet; known: {known}")
