"""Wire formats under measurement: what a server of each says, who of ours reads it, and how its vendor's SDK is asked.

One more wire format is one more row of DIALECTS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from spillway.testing import openai_wire
from spillway.testing.openai_wire import Reply

CHUNKS = 500
PROMPT = "go on"
WORDS = [" word"] * CHUNKS
SAID = sum(map(len, WORDS))

Ask = Callable[[], Awaitable[int]]
"""Asks once, reads the whole stream, and returns how many characters were said."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """`base` is what its paths are added to, `stream` every event of one answer, `sdk` the vendor's own client."""

    base: str
    stream: Callable[[], list[bytes]]
    sdk: Callable[[str], AbstractAsyncContextManager[Ask]]


def _openai_stream() -> list[bytes]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}]}
    replies = [Reply(tokens=WORDS)]
    said: dict[str, Any] = {"id": "chatcmpl-1", "model": "m", "with_usage": True}
    events = [openai_wire.chunk([choice], usage=None, **said) for choice in openai_wire.chunks(body, replies)]
    last = openai_wire.chunk([], usage=openai_wire.usage_of(body, replies), **said)
    return [*map(openai_wire.event, [*events, last]), b"data: [DONE]\n\n"]


@asynccontextmanager
async def _openai_sdk(url: str) -> AsyncIterator[Ask]:
    from openai import AsyncOpenAI  # a process measures one of them, and imports no other

    async with AsyncOpenAI(base_url=url, api_key="sk-none", max_retries=0) as client:

        async def ask() -> int:
            stream = await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": PROMPT}],
                stream=True,
                stream_options={"include_usage": True},
            )
            said = 0
            async for chunk in stream:
                for choice in chunk.choices:
                    said += len(choice.delta.content or "")
            return said

        yield ask


def _responses_stream() -> list[bytes]:
    item: dict[str, Any] = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "".join(WORDS), "annotations": []}
    answer: dict[str, Any] = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m"}
    usage = {"input_tokens": 3, "output_tokens": CHUNKS, "total_tokens": CHUNKS + 3}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**answer, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in WORDS),
        {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": {**item, "content": [part]}},
        {
            "type": "response.completed",
            "response": {**answer, "status": "completed", "output": [{**item, "content": [part]}], "usage": usage},
        },
    ]
    return [openai_wire.event({**event, "sequence_number": at}) for at, event in enumerate(told)]


@asynccontextmanager
async def _responses_sdk(url: str) -> AsyncIterator[Ask]:
    from openai import AsyncOpenAI  # as above

    async with AsyncOpenAI(base_url=url, api_key="sk-none", max_retries=0) as client:

        async def ask() -> int:
            stream = await client.responses.create(model="m", input=PROMPT, stream=True)
            said = 0
            async for event in stream:
                if event.type == "response.output_text.delta":
                    said += len(event.delta)
            return said

        yield ask


def _anthropic_stream() -> list[bytes]:
    begun: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
    }
    usage = {"input_tokens": 3, "output_tokens": 1}
    told: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**begun, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": CHUNKS},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\n".encode() + openai_wire.event(event) for event in told]


@asynccontextmanager
async def _anthropic_sdk(url: str) -> AsyncIterator[Ask]:
    from anthropic import AsyncAnthropic  # as above

    async with AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key="sk-none", max_retries=0) as client:

        async def ask() -> int:
            messages: Any = [{"role": "user", "content": PROMPT}]
            stream: Any = await client.messages.create(model="m", max_tokens=1000, messages=messages, stream=True)
            said = 0
            async for event in stream:
                if event.type == "content_block_delta":
                    said += len(event.delta.text)
            return said

        yield ask


def _gemini_stream() -> list[bytes]:
    told: list[dict[str, Any]] = [
        {
            "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": word}]}}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": at, "totalTokenCount": at + 3},
            "modelVersion": "m",
            "responseId": "r",
        }
        for at, word in enumerate(WORDS, 1)
    ]
    told[-1]["candidates"][0]["finishReason"] = "STOP"
    return [openai_wire.event(chunk) for chunk in told]


@asynccontextmanager
async def _gemini_sdk(url: str) -> AsyncIterator[Ask]:
    import httpx  # as above
    from google import genai
    from google.genai import types

    base_url, _, version = url.rpartition("/")
    async with httpx.AsyncClient() as http:
        options = types.HttpOptions(base_url=base_url, api_version=version, httpx_async_client=http)
        with genai.Client(api_key="none", vertexai=False, http_options=options) as client:

            async def ask() -> int:
                stream = await client.aio.models.generate_content_stream(model="m", contents=PROMPT)
                return sum([len(chunk.text or "") async for chunk in stream])

            yield ask


@asynccontextmanager
async def _mistral_sdk(url: str) -> AsyncIterator[Ask]:
    from mistralai.client import Mistral  # as above

    async with Mistral(api_key="sk-none", server_url=url.removesuffix("/v1")) as client:

        async def ask() -> int:
            messages: Any = [{"role": "user", "content": PROMPT}]
            stream: Any = await client.chat.stream_async(model="m", messages=messages)
            said = 0
            async for event in stream:
                for choice in event.data.choices:
                    said += len(choice.delta.content or "")
            return said

        yield ask


DIALECTS: Mapping[str, Dialect] = {
    "openai": Dialect("/v1", _openai_stream, _openai_sdk),
    "openai-responses": Dialect("/v1", _responses_stream, _responses_sdk),
    "anthropic": Dialect("/v1", _anthropic_stream, _anthropic_sdk),
    "gemini": Dialect("/v1beta", _gemini_stream, _gemini_sdk),
    "mistral": Dialect("/v1", _openai_stream, _mistral_sdk),
}
"""Kind of a provider, as in its settings -> what it is here."""
