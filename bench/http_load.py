"""Load on an OpenAI-style server of completions, from this process; the same prompt and answers as in bench.load."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp

from bench.load import DEADLINE_S, PROMPT, Streamed


async def http_streams(address: str, model: str, count: int, tokens: int) -> Streamed:
    """Read `count` streams of `tokens` tokens each. A chunk of text is a message; tokens are those of the usage."""
    seen = Streamed()
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def reader() -> None:
            began = last = time.perf_counter()
            async with session.post(f"http://{address}/v1/completions", json=body) as response:
                response.raise_for_status()
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    if b'"choices":[]' in line:
                        seen.tokens += json.loads(line[6:])["usage"]["completion_tokens"]
                        continue
                    now = time.perf_counter()
                    (seen.first if last == began else seen.gaps).append(now - last)
                    last = now
                    seen.messages += 1

        began = time.perf_counter()
        await asyncio.gather(*(reader() for _ in range(count)))
        seen.wall_s = time.perf_counter() - began
    return seen
