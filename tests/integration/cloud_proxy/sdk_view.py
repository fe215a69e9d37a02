"""What the official openai package makes of an answer, and what our adapters do, in the same words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI
from openai.types import CompletionUsage
from openai.types.responses import Response, ResponseUsage

from spillway import v1

FINISHES = {
    v1.FINISH_REASON_STOP: "stop",
    v1.FINISH_REASON_LENGTH: "length",
    v1.FINISH_REASON_TOOL_CALLS: "tool_calls",
    v1.FINISH_REASON_CONTENT_FILTER: "content_filter",
}


@dataclass(frozen=True, slots=True)
class View:
    """One answer of one choice. `usage`: prompt, cached, completion and reasoning tokens, None for what is not told."""

    text: str
    calls: tuple[tuple[str, str, str], ...]
    finish: str
    usage: tuple[int | None, ...] | None
    model: str


def ours(content: v1.Delta, finish: v1.ChoiceFinish, usage: v1.Usage | None, model: str) -> View:
    """Return what our adapter read."""
    calls = tuple((call.id, call.name, call.arguments) for call in content.tool_calls)
    return View(content.text, calls, FINISHES[finish.reason], _counted(usage), model)


def _counted(usage: v1.Usage | None) -> tuple[int | None, ...] | None:
    if usage is None or not usage.HasField("prompt_tokens"):
        return None
    cached = usage.cached_prompt_tokens if usage.HasField("cached_prompt_tokens") else None
    reasoning = usage.reasoning_tokens if usage.HasField("reasoning_tokens") else None
    return usage.prompt_tokens, cached, usage.completion_tokens, reasoning


async def chat(client: AsyncOpenAI, *, stream: bool, **asked: Any) -> View:
    """Return what the package reads of chat completions."""
    asked = {"messages": [{"role": "user", "content": "hello there"}], **asked}
    if not stream:
        told = await client.chat.completions.create(**asked)
        message, [choice] = told.choices[0].message, told.choices
        calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        said = (message.content or "") + (message.refusal or "")
        return View(
            said, tuple(calls), _ended(choice.finish_reason, message.refusal), _chat_usage(told.usage), told.model
        )
    text, refusal, finish, usage, model = "", "", "", None, ""
    made: dict[int, list[str]] = {}
    async for chunk in await client.chat.completions.create(stream=True, **asked):
        usage, model = chunk.usage or usage, chunk.model
        for choice in chunk.choices:
            text += choice.delta.content or ""
            refusal += choice.delta.refusal or ""
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or ():
                known = made.setdefault(call.index, ["", "", ""])
                known[0] += call.id or ""
                known[1] += call.function.name or ""
                known[2] += call.function.arguments or ""
    calls = [(id, name, arguments) for id, name, arguments in made.values()]
    return View(text + refusal, tuple(calls), _ended(finish, refusal), _chat_usage(usage), model)


def _ended(finish: str, refusal: str | None) -> str:
    """A refusal is told apart from its finish reason, which is `stop`; to us it is a filter's."""
    return "content_filter" if refusal else finish


def _chat_usage(usage: CompletionUsage | None) -> tuple[int | None, ...] | None:
    if usage is None:
        return None
    asked, said = usage.prompt_tokens_details, usage.completion_tokens_details
    cached = asked.cached_tokens if asked is not None else None
    reasoning = said.reasoning_tokens if said is not None else None
    return usage.prompt_tokens, cached, usage.completion_tokens, reasoning


async def responses(client: AsyncOpenAI, *, stream: bool, **asked: Any) -> View:
    """Return what the package reads of responses; of a stream by its deltas, and the whole it ends with."""
    asked = {"input": "hello there", **asked}
    if not stream:
        return _response(await client.responses.create(**asked))
    text = ""
    async for event in await client.responses.create(stream=True, **asked):
        if event.type in ("response.output_text.delta", "response.refusal.delta"):
            text += event.delta
        if event.type in ("response.completed", "response.incomplete"):
            whole = _response(event.response)
    assert text == whole.text
    return whole


def _response(told: Response) -> View:
    refusal = "".join(
        part.refusal
        for item in told.output
        if item.type == "message"
        for part in item.content
        if part.type == "refusal"
    )
    calls = tuple((item.call_id, item.name, item.arguments) for item in told.output if item.type == "function_call")
    finish = "tool_calls" if calls else _ended("stop", refusal)
    if told.incomplete_details is not None:
        finish = "length" if told.incomplete_details.reason == "max_output_tokens" else "content_filter"
    return View(told.output_text + refusal, calls, finish, _response_usage(told.usage), str(told.model))


def _response_usage(usage: ResponseUsage | None) -> tuple[int | None, ...] | None:
    if usage is None:
        return None
    cached, reasoning = usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens
    return usage.input_tokens, cached, usage.output_tokens, reasoning
