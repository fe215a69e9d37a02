"""What Gemini wants to see again when a conversation goes on: the signatures of its thoughts, each on its own part.

Kept as JSON in `Delta.provider_state`: the model that signed, and the parts of the answer in their order. Of text and
calls only the place is kept, for the message holds them; a signed thought is kept whole, for no message does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from spillway import v1

WIRE = "gemini"
UNSIGNED = "skip_thought_signature_validator"
"""Stands in for a signature that was never given: the call is another model's (ai.google.dev, thought signatures)."""

Part = dict[str, Any]


class Keepsake:
    """The parts of one answer, as they come."""

    __slots__ = ("_calls", "_parts", "_signed")

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._calls = 0
        self._signed = False

    def text(self, text: str, signature: str | None) -> None:
        """Keep the place of `text`. Google asks that a signed part is never joined with another."""
        last = self._parts[-1] if self._parts else {}
        if signature is None and "text" in last and "signature" not in last:
            last["text"] += len(text)
        elif text or signature is not None:
            self._keep({"text": len(text)}, signature)

    def thought(self, text: str, signature: str | None) -> None:
        if signature is not None:
            self._keep({"thought": text}, signature)

    def call(self, signature: str | None) -> None:
        self._keep({"call": self._calls}, signature)
        self._calls += 1

    def _keep(self, part: Part, signature: str | None) -> None:
        if signature is not None:
            self._signed = True
            part["signature"] = signature
        self._parts.append(part)

    def state(self, resource: str) -> v1.ProviderState | None:
        """Return it for a message of the assistant's; None if nothing was signed."""
        if not self._signed:
            return None
        told = json.dumps({"model": resource, "parts": self._parts}, separators=(",", ":"), ensure_ascii=False)
        return v1.ProviderState(wire=WIRE, state=told.encode())

    def __repr__(self) -> str:
        return f"<Keepsake {len(self._parts)} parts{', signed' if self._signed else ''}>"


def signed(state: bytes, resource: str, text: str, calls: Sequence[Part]) -> list[Part] | None:
    """Return the parts of a message of `text` and `calls` as they were signed.

    None where the signatures do not fit: they are another model's, which `resource` refuses as corrupted, or the
    message was changed since. Raises ValueError, TypeError, KeyError or RecursionError for what is no such state.
    """
    told = json.loads(state)
    kept: list[Part] = told["parts"]
    texts = [_length(one["text"]) for one in kept if "text" in one]
    places = [one["call"] for one in kept if "call" in one]
    if told["model"] != resource or sum(texts) != len(text) or places != list(range(len(calls))):
        return None
    parts, at = [], 0
    for one in kept:
        if "thought" in one:
            part: Part = {"text": str(one["thought"]), "thought": True}
        elif "call" in one:
            part = dict(calls[one["call"]])
        else:
            part, at = {"text": text[at : at + one["text"]]}, at + one["text"]
        if "signature" in one:
            part["thoughtSignature"] = str(one["signature"])
        parts.append(part)
    return parts


def stand_in(parts: Sequence[Part]) -> None:
    """Sign the first call of `parts` with UNSIGNED if it has no signature: Gemini 3 looks at the first of each step."""
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None:
        first.setdefault("thoughtSignature", UNSIGNED)


def _length(told: object) -> int:
    if type(told) is not int or told < 0:
        raise ValueError("no length")
    return told
