"""What one read holds for one choice, on its way to be one delta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spillway import v1
from spillway.openai.exchange import Exchange


class Piece:
    """What is read at once of one choice."""

    __slots__ = ("calls", "logprobs", "reasoning", "state", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[v1.TokenLogprob] = []
        self.calls: dict[int, v1.ToolCallDelta] = {}
        self.state: v1.ProviderState | None = None

    def call(self, index: int) -> v1.ToolCallDelta:
        """The tool call at `index`, to be added to."""
        known = self.calls.get(index)
        if known is None:
            known = self.calls[index] = v1.ToolCallDelta(index=index)
        return known

    def delta(self, choice: int, exchange: Exchange) -> v1.Delta | None:
        """Return it as a delta of `choice`, counted in `exchange`; None for nothing."""
        text, reasoning = "".join(self.text), "".join(self.reasoning)
        if not (text or reasoning or self.calls or self.logprobs or self.state):
            return None
        delta = v1.Delta(choice=choice, text=text)  # what is set costs, even to nothing: most pieces are text alone
        said = len(text.encode())
        if reasoning:
            delta.reasoning = reasoning
            said += len(reasoning.encode())
        if self.logprobs:
            delta.logprobs.extend(self.logprobs)
        for call in self.calls.values():
            delta.tool_calls.append(call)
            said += len(call.name.encode()) + len(call.arguments.encode())
        if self.state is not None:
            delta.provider_state.CopyFrom(self.state)
        exchange.said_bytes += said
        return delta

    def __repr__(self) -> str:
        return f"<Piece {len(self.text)} texts, {len(self.reasoning)} of reasoning, {len(self.calls)} calls>"


def logprob(told: Mapping[str, Any]) -> v1.TokenLogprob:
    """Return what is told of one token. Token ids stay 0 where the server tells none; Mistral does."""
    return v1.TokenLogprob(
        token_id=told.get("token_id", 0),
        token=told["token"],
        logprob=told["logprob"],
        top=[v1.TopLogprob(token=other["token"], logprob=other["logprob"]) for other in told.get("top_logprobs") or ()],
    )
