"""The two ways to ask a client for a whole answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from spillway.client import Answer, Client

Ask = Callable[..., Coroutine[Any, Any, Answer]]


async def asked(client: Client, prompt: str = "Hi", **options: Any) -> Answer:
    return await client.generate(prompt, **options)


async def read(client: Client, prompt: str = "Hi", **options: Any) -> Answer:
    async with client.stream(prompt, **options) as stream:
        async for _ in stream:
            pass
    return stream.answer


both_ways = pytest.mark.parametrize("ask", [asked, read])
