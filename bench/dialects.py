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


DIALECTS: Mapping[str, Dialect] = {"openai": Dialect("/v1", _openai_stream, _openai_sdk)}
"""Kind of a provider, as in its settings -> what it is here."""
