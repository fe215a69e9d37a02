"""Providers that the template may call by name: those that speak OpenAI's wire format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

UNKNOWN_REGION = "unknown"
"""No data policy that names regions lets content go there."""


class Known(NamedTuple):
    """Where a provider is, which variable holds its key by custom, and how its models are called."""

    base_url: str
    key_env: str
    region: str = UNKNOWN_REGION
    models: tuple[str, ...] = ()
    """How the names of its own models begin."""
    resells: bool = False
    """It serves other makers' models: MAKER/MODEL is a model of its own there."""


PROVIDERS: Mapping[str, Known] = {
    "openai": Known("https://api.openai.com/v1", "OPENAI_API_KEY", "us", ("gpt-", "chatgpt-", "o1", "o3", "o4")),
    "mistral": Known("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "eu", ("mistral-", "ministral-", "codestral-")),
    "gemini": Known("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", models=("gemini-",)),
    "deepseek": Known("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "cn", ("deepseek-",)),
    "groq": Known("https://api.groq.com/openai/v1", "GROQ_API_KEY", resells=True),
    "together": Known("https://api.together.xyz/v1", "TOGETHER_API_KEY", resells=True),
    "fireworks": Known("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", resells=True),
    "openrouter": Known("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", resells=True),
}
NOT_YET: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("claude-",),
    "azure": (),
    "bedrock": (),
    "cohere": ("command-",),
}
"""Providers with a wire format of their own, and how their models' names begin."""


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
    return provider, model


def refuse(provider: str) -> None:
    """Raise ValueError if `provider` is one whose wire format the cloud proxy does not speak."""
    if provider in NOT_YET:
        known = ", ".join(PROVIDERS)
        raise ValueError(f"{provider} has a wire format of its own, which is not spoken yet; known: {known}")
