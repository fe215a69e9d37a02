"""OpenAI's chat completions as they are on the wire: what a request asks for, and the bodies of an answer."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from spillway.testing.openai_faults import Status
from spillway.testing.vectors import vector

FINGERPRINT = "fp_simulated"
CREATED = 1_700_000_000

PARAMETERS = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "n",
        "stop",
        "seed",
        "max_tokens",
        "max_completion_tokens",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "user",
        "metadata",
        "store",
        "service_tier",
        "verbosity",
        "prediction",
        "modalities",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
    }
)
"""Parameters that are understood; OpenAI refuses any other."""
EMBEDDING_PARAMETERS = frozenset({"model", "input", "encoding_format", "dimensions", "user"})
MAX_DIMENSIONS = 8
"""Of the simulated vectors, which may be asked for shorter."""


@dataclass(frozen=True, slots=True)
class Called:
    """A tool the simulated model calls."""

    name: str
    arguments: str


@dataclass(slots=True)
class Reply:
    """One choice of an answer, token by token."""

    index: int = 0
    tokens: list[str] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    finish: str = "stop"
    refusal: bool = False

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def tokens_of(text: str) -> list[str]:
    """Split `text` into tokens: words with the space before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def prompt_text(body: Mapping[str, Any]) -> str:
    """The text of the last user message."""
    for message in reversed(body.get("messages", ())):
        if message.get("role") == "user":
            return content_text(message.get("content"))
    return ""


def content_text(content: object) -> str:
    """The text of a message's content, string or parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of the prompt, as the simulator counts: words, and three a message."""
    return sum(3 + len(tokens_of(content_text(message.get("content")))) for message in body.get("messages", ()))


def misshapen(body: object, parameters: frozenset[str]) -> Status | None:
    """What OpenAI would say against `body` if it is no request for a model, or holds other than `parameters`."""
    if not isinstance(body, Mapping):
        return Status(400, message="We could not parse the JSON body of your request.")
    if unknown := sorted(set(body) - parameters):
        said = f"Unknown parameter: '{unknown[0]}'."
        return Status(400, "unknown_parameter", message=said, param=unknown[0])
    if not isinstance(body.get("model"), str) or not body["model"]:
        return Status(400, message="you must provide a model parameter")
    return None


def wrong(body: object, parameters: frozenset[str] = PARAMETERS) -> Status | None:
    """What OpenAI would say against `body`, if anything; `parameters` are those that it understands."""
    if refused := misshapen(body, parameters):
        return refused
    assert isinstance(body, Mapping)
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        said = "Invalid 'messages': empty array. Expected an array with minimum length 1."
        return Status(400, "empty_array", message=said, param="messages")
    if "stream_options" in body and not body.get("stream"):
        return Status(400, message="The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    if "top_logprobs" in body and not body.get("logprobs"):
        return Status(400, message="You must also set 'logprobs' to use 'top_logprobs'.", param="top_logprobs")
    return None


def wrong_embedding(body: object) -> Status | None:
    """What OpenAI would say against `body` at /embeddings, if anything."""
    if not isinstance(body, Mapping):
        return Status(400, message="We could not parse the JSON body of your request.")
    if unknown := sorted(set(body) - EMBEDDING_PARAMETERS):
        return Status(400, message=f"Unrecognized request argument supplied: {unknown[0]}", param=unknown[0])
    if not isinstance(body.get("model"), str) or not body["model"]:
        return Status(400, message="you must provide a model parameter")
    inputs = body.get("input")
    kinds = {type(one) for one in inputs} if isinstance(inputs, list) else {type(inputs)}
    if kinds not in ({str}, {int}, {list}) or not inputs or (isinstance(inputs, list) and not all(inputs)):
        return Status(400, message="'$.input' is invalid. Please check the API reference.", param="input")
    if not 1 <= body.get("dimensions", 1) <= MAX_DIMENSIONS:
        return Status(400, message="Invalid value for 'dimensions'.", param="dimensions")
    if body.get("encoding_format", "float") not in ("float", "base64"):
        return Status(400, message="Invalid value for 'encoding_format'.", param="encoding_format")
    return None


def embedding(body: Mapping[str, Any], *, model: str, packs: bool) -> dict[str, Any]:
    """A whole answer of /embeddings; in base64 where that is asked for and the server `packs`."""
    inputs = body["input"] if isinstance(body["input"], list) and type(body["input"][0]) is not int else [body["input"]]
    vectors = [vector(body["model"], one, body.get("dimensions", MAX_DIMENSIONS)) for one in inputs]
    tokens = sum(len(tokens_of(one)) if isinstance(one, str) else len(one) for one in inputs)
    told: list[Any] = list(vectors)
    if packs and body.get("encoding_format") == "base64":
        told = [base64.b64encode(struct.pack(f"<{len(one)}f", *one)).decode() for one in vectors]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(told)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def error_body(status: Status) -> dict[str, Any]:
    """The body of an HTTP error."""
    return {
        "error": {"message": status.message, "type": status.type, "param": status.param, "code": status.code},
    }


def usage_of(body: Mapping[str, Any], replies: list[Reply], *, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """The usage object: reasoning tokens are part of the completion, cached ones of the prompt."""
    asked = prompt_tokens(body)
    said = reasoning + sum(
        len(reply.tokens) + sum(len(pieces(call.arguments)) for call in reply.calls) for reply in replies
    )
    return {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": asked + said,
        "prompt_tokens_details": {"cached_tokens": min(cached, asked), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion(body: Mapping[str, Any], replies: list[Reply], *, id: str, model: str, usage: object) -> dict[str, Any]:
    """A whole answer."""
    return {
        "id": id,
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [_choice(body, reply) for reply in replies],
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _choice(body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
    if reply.refusal:
        message.update(content=None, refusal=reply.text)
    if reply.calls:
        message["content"] = None
        message["tool_calls"] = [
            {"id": call_id(reply, at), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for at, call in enumerate(reply.calls)
        ]
    logprobs = {"content": [logprob(token, body) for token in reply.tokens], "refusal": None}
    return {
        "index": reply.index,
        "message": message,
        "logprobs": logprobs if body.get("logprobs") else None,
        "finish_reason": reply.finish,
    }


def chunks(body: Mapping[str, Any], replies: list[Reply]) -> Iterator[dict[str, Any]]:
    """The choice of every chunk in the order of a stream: the choices of `n` interleave. Roles come first."""
    for reply in replies:
        content = None if reply.calls or reply.refusal else ""
        yield _delta(reply, {"role": "assistant", "content": content, "refusal": "" if reply.refusal else None})
    lanes = [_said(body, reply) for reply in replies]
    while lanes:
        for lane in list(lanes):
            found = next(lane, None)
            if found is None:
                lanes.remove(lane)
            else:
                yield found


def _said(body: Mapping[str, Any], reply: Reply) -> Iterator[dict[str, Any]]:
    name = "refusal" if reply.refusal else "content"
    for token in reply.tokens:
        logprobs = {"content": [logprob(token, body)], "refusal": None} if body.get("logprobs") else None
        yield _delta(reply, {name: token}, logprobs=logprobs)
    for at, call in enumerate(reply.calls):
        opening = {"name": call.name, "arguments": ""}
        yield _delta(
            reply, {"tool_calls": [{"index": at, "id": call_id(reply, at), "type": "function", "function": opening}]}
        )
        for piece in pieces(call.arguments):
            yield _delta(reply, {"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
    yield _delta(reply, {}, finish=reply.finish)


def _delta(
    reply: Reply, delta: dict[str, Any], *, finish: str | None = None, logprobs: object = None
) -> dict[str, Any]:
    return {"index": reply.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def chunk(choices: list[dict[str, Any]], *, id: str, model: str, usage: object, with_usage: bool) -> dict[str, Any]:
    """One chunk of an answer."""
    told: dict[str, Any] = {
        "id": id,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
    }
    if with_usage:
        told["usage"] = usage
    return told


def event(told: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def logprob(token: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of one token when logprobs are asked for."""
    top = int(body.get("top_logprobs") or 0)
    others = [(token, -0.125), *((f"{token}{rank}", -2.0 - rank) for rank in range(1, top))][:top]
    return {
        "token": token,
        "logprob": -0.125,
        "bytes": list(token.encode()),
        "top_logprobs": [{"token": name, "logprob": value, "bytes": list(name.encode())} for name, value in others],
    }


def call_id(reply: Reply, at: int) -> str:
    """The id of a tool call."""
    return f"call_simulated_{reply.index}_{at}"


def pieces(arguments: str, size: int = 8) -> list[str]:
    """Arguments as a stream cuts them: anywhere."""
    return [arguments[at : at + size] for at in range(0, len(arguments), size)]
