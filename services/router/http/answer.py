"""What chat completions and completions share in telling an answer."""

from __future__ import annotations

import json
from typing import Any, Protocol

from spillway import v1

FINISHES = {
    v1.FINISH_REASON_STOP: "stop",
    v1.FINISH_REASON_STOP_SEQUENCE: "stop",
    v1.FINISH_REASON_LENGTH: "length",
    v1.FINISH_REASON_TOOL_CALLS: "tool_calls",
    v1.FINISH_REASON_CONTENT_FILTER: "content_filter",
}

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""A value as JSON text."""
encode_text = json.encoder.encode_basestring
"""A text as JSON text, straight in C: it is what most chunks are."""


class Chunks(Protocol):
    """The chunks of one streamed answer, as text of server-sent events."""

    def begin(self, started: v1.Started) -> None:
        """Take the name of the model that answers from here on."""
        ...

    def delta(self, delta: v1.Delta) -> str: ...

    def text(self, text: str, choice: int = 0) -> str:
        """The chunk of a delta that is a text of `choice` and nothing else."""
        ...

    def finish(self, finished: v1.Finished) -> str: ...

    def usage(self, usage: v1.Usage) -> str:
        """The chunk of usage where it was asked for, else nothing."""
        ...


def finish_reason(finish: v1.ChoiceFinish) -> str:
    """OpenAI's word for why a choice ended."""
    return FINISHES.get(finish.reason, "stop")


def usage_of(usage: v1.Usage) -> dict[str, Any] | None:
    """The usage object; None where a count is unknown, since it has no word for that and 0 would be one."""
    if not (usage.HasField("prompt_tokens") and usage.HasField("completion_tokens")):
        return None
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    details = {}
    if usage.HasField("cached_prompt_tokens"):
        details["cached_tokens"] = usage.cached_prompt_tokens
    if usage.HasField("cache_write_prompt_tokens"):
        details["cache_write_tokens"] = usage.cache_write_prompt_tokens
    if details:
        told["prompt_tokens_details"] = details
    if usage.HasField("reasoning_tokens"):
        told["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return told


def event(data: str) -> str:
    """One server-sent event."""
    return f"data: {data}\n\n"


class Frame:
    """What surrounds the choices of every chunk of one answer: made once, since chunks are many."""

    def __init__(self, object: str, id: str, created: int, *, include_usage: bool) -> None:
        self._object, self._id, self._created = object, id, created
        self._include_usage = include_usage
        self._tail = ',"usage":null}\n\n' if include_usage else "}\n\n"
        self._head = ""

    def begin(self, model: str) -> None:
        """Name the model that answers from here on."""
        told = {"id": self._id, "object": self._object, "created": self._created, "model": model}
        self._head = f"data: {encode(told)[:-1]},"

    def chunk(self, choice: str) -> str:
        """The event of one choice, given as JSON text."""
        return "".join(self.around(choice, ""))

    def around(self, head: str, tail: str) -> tuple[str, str]:
        """What stands before and after something in the event of a choice that begins and ends so."""
        return f'{self._head}"choices":[{head}', f"{tail}]{self._tail}"

    def usage(self, usage: v1.Usage) -> str:
        """The event of usage where it was asked for, else nothing."""
        if not self._include_usage:
            return ""
        return f'{self._head}"choices":[],"usage":{encode(usage_of(usage))}}}\n\n'
