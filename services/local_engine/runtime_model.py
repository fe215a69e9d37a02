"""Which model a runtime serves, which version it is, and how long a prompt may be there: asked, then decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.local_engine.presets import Preset
from services.local_engine.runtime_client import RuntimeClient
from spillway.errors import SpillwayError, TargetDown, TargetModelMissing
from spillway.settings import SettingsError

NAMED = 8
"""How many models a message names."""


@dataclass(frozen=True, slots=True)
class About:
    """What a runtime said of itself."""

    model: str
    """As the runtime calls it."""
    version: str
    """Empty: it does not say."""
    context_window: int | None
    """Tokens; None: it does not say."""


async def about(client: RuntimeClient, preset: Preset, wanted: str | None) -> About:
    """Ask the runtime. Raises TargetUnavailable while it has no such model, SettingsError where one must be named."""
    if wanted is not None and not preset.lists:  # a list of a cache that may not even be there
        return About(wanted, await _version(client, preset), await context_window(client, preset, wanted))
    listed = listing(await client.told(f"{preset.base}/models"), client.name)
    model = resolved(wanted, [name for name, _ in listed], client.name)
    card = dict(listed).get(model, {})
    return About(model, await _version(client, preset), await context_window(client, preset, model, card))


def listing(told: object, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the models in a runtime's list, with what it says of each."""
    cards = told.get("data") if isinstance(told, Mapping) else told
    if not isinstance(cards, Sequence) or isinstance(cards, str):
        raise TargetDown(f"{name} does not list its models as OpenAI does", resource=name)
    return [(str(card["id"]), card) for card in cards if isinstance(card, Mapping) and "id" in card]


def resolved(wanted: str | None, listed: Sequence[str], runtime: str) -> str:
    """Return the name by which `runtime` knows the model that is wanted; None means the only one it has."""
    some = ", ".join(listed[:NAMED]) + (", ..." if len(listed) > NAMED else "")
    if wanted is None:
        if not listed:
            raise TargetModelMissing(f"{runtime} has no model: load one there", resource=runtime)
        if len(listed) > 1:
            raise SettingsError(f"local_engine.runtime.model: {runtime} has several: name one of {some}")
        return listed[0]
    for name in (wanted, f"{wanted}:latest"):
        if name in listed:
            return name
    has = f"it has {some}" if listed else "it has none"
    raise TargetModelMissing(f"{runtime} has no model {wanted!r}: {has}", resource=runtime)


async def context_window(
    client: RuntimeClient, preset: Preset, model: str, card: Mapping[str, Any] | None = None
) -> int | None:
    """Return the tokens that fit, as the runtime tells; None where it does not, or not yet."""
    try:
        match preset.context:
            case "max_model_len":
                if card is None:
                    card = dict(listing(await client.told(f"{preset.base}/models"), client.name)).get(model, {})
                return _tokens(card.get("max_model_len"))
            case "props":
                return _tokens((await client.told("/props"))["default_generation_settings"]["n_ctx"])
            case "lm_studio":
                cards = dict(listing(await client.told("/api/v0/models"), client.name))
                return _tokens(cards.get(model, {}).get("loaded_context_length"))
            case "ollama":
                running = (await client.told("/api/ps"))["models"]
                found = [one.get("context_length") for one in running if one.get("name") == model]
                return _tokens(found[0]) if found else None
    except (SpillwayError, KeyError, TypeError, AttributeError):
        pass  # an older one, or one behind a gateway: nothing depends on knowing
    return None


async def _version(client: RuntimeClient, preset: Preset) -> str:
    if preset.version is None:
        return ""
    path, key = preset.version
    try:
        return str((await client.told(path))[key])[:100]
    except (SpillwayError, KeyError, TypeError):
        return ""


def _tokens(told: object) -> int | None:
    return told if isinstance(told, int) and not isinstance(told, bool) and told > 1 else None
