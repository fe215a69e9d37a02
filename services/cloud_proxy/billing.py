"""What a provider bills for an answer that was not read to its end. Pure.

The provider tells what it counted at the end of its answer, if at all. Of a call that was cut before that, or
cancelled, what we saw is known, and what it bills follows from what it does when a connection closes (docs/money.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from services.cloud_proxy.spend import Tariff, Tokens

OnCancel = Literal["generated", "whole", "unknown"]
"""What is billed of an answer whose reader left: what was made until then; all that would have been; nobody says."""

KNOWN: tuple[tuple[str, OnCancel], ...] = (
    ("api.openai.com", "generated"),
    ("openai.azure.com", "generated"),
    ("api.anthropic.com", "generated"),
    ("api.together.xyz", "generated"),
    ("api.together.ai", "generated"),
    ("api.deepseek.com", "generated"),
    ("api.x.ai", "generated"),
    ("api.fireworks.ai", "generated"),
    ("api.mistral.ai", "whole"),
    ("generativelanguage.googleapis.com", "whole"),
    ("api.groq.com", "whole"),
    ("modal.run", "whole"),
    ("api.replicate.com", "whole"),
)
"""Host, or what it ends in -> what is billed. As OpenRouter tells of the providers behind it, 2026-11: those that a
cancel stops, and those that go on and bill the whole (openrouter.ai/docs, Streaming, Stream Cancellation)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an answer that ended early. `bound`: most tokens it could have had; None: no bound is known."""

    prompt: int
    completion: int
    bound: int | None
    cached: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """In 1e-9 USD. None: unknown, because the price is, or because nothing bounds what is billed."""

    counted: int | None
    """What we saw of it costs."""
    at_most: int | None
    """The provider bills no more."""


def on_cancel(base_url: str) -> OnCancel:
    """Return what the provider at `base_url` is known to do."""
    host = urlsplit(base_url).hostname or ""
    return next((does for name, does in KNOWN if host == name or host.endswith(f".{name}")), "unknown")


def bill(tariff: Tariff, seen: Seen, does: OnCancel) -> Bill:
    """Return what a provider that `does` so bills for `seen`."""

    def cost(completion: int) -> int | None:
        return tariff.cost_nano_usd(Tokens(seen.prompt, completion, cached=seen.cached, written=seen.written))

    counted = cost(seen.completion)
    if does == "generated":
        return Bill(counted, counted)
    return Bill(counted, None if seen.bound is None else cost(max(seen.bound, seen.completion)))
