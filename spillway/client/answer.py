"""A whole answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spillway import v1
from spillway.errors import OutputInvalid


@dataclass(frozen=True, slots=True)
class Answer:
    """A view of a `v1.GenerateResponse`. `usage` says nothing, rather than 0, of what is unknown."""

    message: v1.GenerateResponse

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.texts[0] if self.message.choices else ""

    @property
    def texts(self) -> Sequence[str]:
        """The text of every choice, in order."""
        return [choice.content.text for choice in self.message.choices]

    def json(self) -> Any:
        """The JSON value of the answer: what the validator accepted, else the text itself.

        Raises OutputInvalid if the text is not JSON.
        """
        verdict = self.verdict
        try:
            return json.loads(verdict.accepted_json if verdict and verdict.accepted_json else self.text)
        except ValueError as error:
            raise OutputInvalid(f"the answer is not JSON: {type(error).__name__} at its parsing") from None

    def turn(self, choice: int = 0) -> v1.Message:
        """Return a choice as the assistant's message of a conversation that goes on: text, calls, provider's state.

        Raises IndexError for a choice that there is not.
        """
        content = self.message.choices[choice].content
        message = v1.Message(role=v1.ROLE_ASSISTANT)
        if content.HasField("provider_state"):
            message.parts.add(provider_state=content.provider_state)
        if content.text or not content.tool_calls:
            message.parts.add(text=content.text)
        for call in content.tool_calls:
            message.parts.add(tool_call=v1.ToolCall(id=call.id, name=call.name, arguments=call.arguments))
        return message

    @property
    def request_id(self) -> str:
        return self.message.started.request_id

    @property
    def model(self) -> str:
        return self.message.started.model

    @property
    def target(self) -> str:
        return self.message.started.target

    @property
    def route_reason(self) -> str:
        """Why this target, in one line."""
        return self.message.started.route_reason

    @property
    def finish(self) -> str:
        """Why the first choice ended: stop, stop_sequence, length, tool_calls or content_filter."""
        return finish_word(self.message.choices[0].finish.reason) if self.message.choices else ""

    @property
    def usage(self) -> v1.Usage:
        return self.message.usage

    @property
    def attempts(self) -> Sequence[v1.Attempt]:
        """Every call to a target that was made for this answer, in order."""
        return self.message.usage.attempts

    @property
    def verdict(self) -> v1.Verdict | None:
        """What the validator said, where it was asked."""
        return self.message.usage.verdict if self.message.usage.HasField("verdict") else None

    @property
    def cached(self) -> v1.CacheHit | None:
        """What was saved, where the answer was not made for this request."""
        return self.message.usage.cache if self.message.usage.HasField("cache") else None

    @property
    def context(self) -> v1.ContextChange | None:
        """What was dropped or condensed, where the prompt did not fit."""
        return self.message.usage.context if self.message.usage.HasField("context") else None

    @property
    def cost_usd(self) -> float | None:
        """Cost of all attempts in USD; None where it is not known."""
        usage = self.message.usage
        return usage.cost_nano_usd / 1e9 if usage.HasField("cost_nano_usd") else None

    def __repr__(self) -> str:
        return f"<Answer {self.request_id} from {self.target} {self.finish or 'unfinished'}>"


def finish_word(reason: v1.FinishReason.ValueType) -> str:
    """Return `reason` as callers write it: stop, length, ..."""
    return v1.FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower() if reason else ""
