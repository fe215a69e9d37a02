"""The Responses API of the simulated OpenAI: what a request asks for, an answer's body, its events in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from spillway.testing import openai_wire as wire
from spillway.testing.http_simulator import broken_off, drop
from spillway.testing.openai_faults import (
    BREAKING,
    Cut,
    Failed,
    Filtered,
    HttpFault,
    Status,
)
from spillway.testing.openai_wire import Reply

PARAMETERS = frozenset(
    {
        "model",
        "input",
        "instructions",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_logprobs",
        "max_output_tokens",
        "max_tool_calls",
        "text",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning",
        "include",
        "store",
        "truncation",
        "metadata",
        "user",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
)
"""Parameters that are understood; OpenAI refuses any other."""
LEAST_TOKENS = 16
"""Of `max_output_tokens`."""
ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
SEAL = "simulated-reasoning-"

Object = dict[str, Any]


def wrong(body: object, *, thinks: bool) -> Status | None:
    """What OpenAI would say against `body`, if anything; `thinks`: the model reasons."""
    if refused := wire.misshapen(body, PARAMETERS):
        return refused
    assert isinstance(body, Mapping)
    if not body.get("input"):
        said = "Missing required parameter: 'input'."
        return Status(400, "missing_required_parameter", message=said, param="input")
    if body.get("max_output_tokens", LEAST_TOKENS) < LEAST_TOKENS:
        said = f"Invalid 'max_output_tokens': integer below minimum value. Expected a value >= {LEAST_TOKENS}."
        return Status(400, "integer_below_min_value", message=said, param="max_output_tokens")
    if not thinks and ENCRYPTED in (body.get("include") or ()):
        return Status(400, message="Encrypted content is not supported with this model.", param="include")
    return _wrong_items(body["input"] if isinstance(body["input"], list) else [])


def _wrong_items(items: list[Object]) -> Status | None:
    """Reasoning goes with what came after it, and a tool's output with the call."""
    called = set()
    for at, item in enumerate(items):
        kind, param = item.get("type", "message"), f"input[{at}]"
        if kind == "function_call":
            called.add(item["call_id"])
        elif kind == "function_call_output" and item["call_id"] not in called:
            said = f"No tool call found for function call output with call_id {item['call_id']}."
            return Status(400, message=said, param="input")
        elif kind == "reasoning":
            if not str(item.get("encrypted_content")).startswith(SEAL):
                said = "The encrypted content could not be verified."
                return Status(400, "invalid_encrypted_content", message=said, param=param)
            follows = items[at + 1] if at + 1 < len(items) else {}
            if follows.get("type") not in ("reasoning", "function_call") and follows.get("role") != "assistant":
                said = f"Item '{item['id']}' of type 'reasoning' was provided without its required following item."
                return Status(400, message=said, param="input")
    return None


def as_chat(body: Mapping[str, Any]) -> Object:
    """Return `body` as the same request to chat completions, by which the words are made and counted."""
    messages: list[Object] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    items = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    for item in items:
        if "role" in item:
            messages.append({"role": item["role"], "content": item["content"]})
        elif item["type"] == "function_call":
            messages.append({"role": "assistant", "content": item["arguments"]})
        elif item["type"] == "function_call_output":
            messages.append({"role": "tool", "content": item["output"]})
    form, choice = (body.get("text") or {}).get("format") or {}, body.get("tool_choice")
    chat: Object = {
        "model": body["model"],
        "messages": messages,
        "max_completion_tokens": body.get("max_output_tokens"),
        "response_format": {**form, "json_schema": form},
        "tools": [{"function": tool} for tool in body.get("tools") or ()],
        "tool_choice": {"function": choice} if isinstance(choice, Mapping) else choice,
    }
    return chat


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to `body`: what `reply` says after thinking `thoughts`, which is None where the model does not reason.

    `number` is in all its ids.
    """

    body: Mapping[str, Any]
    reply: Reply
    thoughts: str | None
    usage: Mapping[str, Any]
    number: int
    model: str

    def response(self, status: str, output: list[Object], **more: Any) -> Object:
        """The whole response, or what it is so far."""
        body = self.body
        ended = status in ("completed", "incomplete")
        return {
            "id": f"resp_simulated{self.number}",
            "object": "response",
            "created_at": wire.CREATED,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "model": self.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "prompt_cache_key": body.get("prompt_cache_key"),
            "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
            "service_tier": "default",
            "store": body.get("store", True),
            "temperature": body.get("temperature", 1.0),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_p": body.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": _usage(self.usage) if ended else None,
            "metadata": {},
            **more,
        }

    def ended(self) -> Object:
        """The whole response."""
        why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(self.reply.finish)
        if why is None:
            return self.response("completed", self.output())
        return self.response("incomplete", self.output(), incomplete_details={"reason": why})

    def failed(self, fault: Failed) -> Object:
        """The response that came to nothing."""
        return self.response("failed", [], error={"code": fault.code, "message": fault.message})

    def output(self) -> list[Object]:
        """Its items: reasoning, then the message or the calls."""
        items: list[Object] = []
        if self.thoughts is not None:
            sealed = ENCRYPTED in (self.body.get("include") or ())
            told = bool((self.body.get("reasoning") or {}).get("summary")) and self.thoughts
            item = {
                "id": f"rs_simulated{self.number}",
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": part} for part in self.thoughts.split("\n\n") if told],
            }
            items.append({**item, "encrypted_content": f"{SEAL}{self.number}"} if sealed else item)
        for at, call in enumerate(self.reply.calls):
            items.append(
                {
                    "id": f"fc_simulated{self.number}_{at}",
                    "type": "function_call",
                    "status": "completed",
                    "call_id": wire.call_id(self.reply, at),
                    "name": call.name,
                    "arguments": call.arguments,
                }
            )
        if not self.reply.calls and (self.reply.tokens or not items):
            items.append(
                {
                    "id": f"msg_simulated{self.number}",
                    "type": "message",
                    "status": "incomplete" if self.reply.finish in ("length", "content_filter") else "completed",
                    "content": [self.part()],
                    "role": "assistant",
                }
            )
        return items

    def part(self, *, empty: bool = False) -> Object:
        """The one part of the message."""
        text = "" if empty else self.reply.text
        if self.reply.refusal:
            return {"type": "refusal", "refusal": text}
        logprobs = [] if empty else [one for token in self.reply.tokens for one in self.logprobs(token)]
        return {"type": "output_text", "annotations": [], "logprobs": logprobs, "text": text}

    def logprobs(self, token: str) -> list[Object]:
        """What is told of `token`, where that was asked for."""
        return [wire.logprob(token, self.body)] if LOGPROBS in (self.body.get("include") or ()) else []

    def events(self) -> Iterator[Object]:
        """All events of the stream, in their order, the last one apart."""
        yield {"type": "response.created", "response": self.response("in_progress", [])}
        yield {"type": "response.in_progress", "response": self.response("in_progress", [])}
        for at, item in enumerate(self.output()):
            opening: Object = {
                "reasoning": {"summary": []},
                "message": {"content": []},
                "function_call": {"arguments": ""},
            }
            kind = item["type"]
            yield {
                "type": "response.output_item.added",
                "output_index": at,
                "item": {**item, **opening[kind], **({} if kind == "reasoning" else {"status": "in_progress"})},
            }
            for event in {"reasoning": _thinking, "message": self._message, "function_call": _calling}[kind](item):
                yield {**event, "item_id": item["id"], "output_index": at}
            yield {"type": "response.output_item.done", "output_index": at, "item": item}

    def _message(self, item: Object) -> Iterator[Object]:
        name, at = "refusal" if self.reply.refusal else "output_text", {"content_index": 0}
        yield {"type": "response.content_part.added", **at, "part": self.part(empty=True)}
        for token in self.reply.tokens:
            told = {} if self.reply.refusal else {"logprobs": self.logprobs(token)}
            yield {"type": f"response.{name}.delta", **at, "delta": token, **told}
        part = self.part()
        told = {field: value for field, value in part.items() if field not in ("type", "annotations")}
        yield {"type": f"response.{name}.done", **at, **told}
        yield {"type": "response.content_part.done", **at, "part": part}


def _thinking(item: Object) -> Iterator[Object]:
    for index, part in enumerate(item["summary"]):
        at = {"summary_index": index}
        yield {"type": "response.reasoning_summary_part.added", **at, "part": {**part, "text": ""}}
        for token in wire.tokens_of(part["text"]):
            yield {"type": "response.reasoning_summary_text.delta", **at, "delta": token}
        yield {"type": "response.reasoning_summary_text.done", **at, "text": part["text"]}
        yield {"type": "response.reasoning_summary_part.done", **at, "part": part}


def _calling(item: Object) -> Iterator[Object]:
    for piece in wire.pieces(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", "delta": piece}
    yield {"type": "response.function_call_arguments.done", "arguments": item["arguments"]}


def _usage(chat: Mapping[str, Any]) -> Object:
    """The usage object of chat completions as it is here."""
    cached, thought = chat["prompt_tokens_details"], chat["completion_tokens_details"]
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached["cached_tokens"], "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": thought["reasoning_tokens"]},
        "total_tokens": chat["total_tokens"],
    }


async def answered(
    request: web.Request, answer: Answer, fault: HttpFault | None, *, headers: Mapping[str, str], interval_s: float
) -> web.StreamResponse:
    """Answer `request` with `answer`, with what `fault` makes of it; `interval_s` seconds lie between tokens."""
    if isinstance(fault, Filtered):
        answer.reply.tokens = answer.reply.tokens[: fault.after]
        answer.reply.finish = "content_filter"
        fault = None
    if not answer.body.get("stream"):
        if isinstance(fault, Cut):
            drop(request)
        told = answer.failed(fault) if isinstance(fault, Failed) else answer.ended()
        return web.json_response(told, headers=headers)
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", **headers})
    await response.prepare(request)
    breaks_at, tokens, number = fault.after if isinstance(fault, BREAKING) else None, 0, 0
    for number, event in enumerate(answer.events()):
        if event["type"].endswith(".delta"):
            if tokens == breaks_at:
                break
            tokens += 1
            await asyncio.sleep(interval_s)
        await response.write(_event(event, number))
    else:
        last = answer.ended()
        await response.write(_event({"type": f"response.{last['status']}", "response": last}, number + 1))
        return response
    if isinstance(fault, Failed):
        await response.write(_event({"type": "response.failed", "response": answer.failed(fault)}, number))
    garbled = b'event: x\ndata: {"type": "response.output_text.delta", "delta"\n\n'
    await broken_off(
        request, response, fault, garbled=garbled, event=lambda told: _event({"type": "error", **told}, number)
    )
    return response


def _event(told: Mapping[str, Any], number: int) -> bytes:
    return f"event: {told['type']}".encode() + b"\n" + wire.event({**told, "sequence_number": number})
