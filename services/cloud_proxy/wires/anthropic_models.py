"""What a Claude model takes, by its name where the settings do not say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.cloud_proxy.settings import ThinkingName

_VERSION = re.compile(r"(?<!\d)(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
"""In claude-haiku-4-5-20251001 and claude-3-7-sonnet-20250219, but not of the date in claude-sonnet-4-20250514."""
_ALWAYS = ("fable", "mythos")
"""Lines that cannot be told not to think."""
ADAPTIVE_SINCE = (4, 6)
"""Older models are given a budget of tokens to think within; newer ones decide for themselves, within an effort."""
NO_SAMPLING_SINCE = (4, 7)
"""From here on temperature, top_p and top_k are answered with 400, unless they are the defaults."""


@dataclass(frozen=True, slots=True)
class Traits:
    """How a model thinks, and whether its sampling can be set. Facts of the provider's model pages of October 2026."""

    thinking: ThinkingName
    sampling: bool


def traits_of(model: str, declared: ThinkingName | None) -> Traits:
    """Return what `model` takes. A name without a version: a new model, whose sampling the provider judges."""
    found = _VERSION.search(model)
    version = (int(found[1]), int(found[2] or 0)) if found else None
    always = any(line in model for line in _ALWAYS)
    thinking: ThinkingName = "adaptive"
    if always:
        thinking = "always"
    elif version is not None and version < ADAPTIVE_SINCE:
        thinking = "budget"
    return Traits(declared or thinking, not always and (version is None or version < NO_SAMPLING_SINCE))
