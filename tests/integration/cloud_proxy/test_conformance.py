"""Recorded exchanges with OpenAI and compatible servers, replayed: equal however the bytes are cut."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.cloud_proxy.openai import OpenAI
from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.settings import ProviderSettings
from spillway import errors, v1
from spillway.generation import merge_delta
from spillway.openai.errors import understood
from tests.integration.cloud_proxy.rig import call, raw, spec

pytestmark = pytest.mark.conformance

DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere")) / "cassettes" / "wire.jsonl"
# The recordings are others' and never copied in here: they run where SPILLWAY_DATA names them, as it does in CI.
RECORDED = pytest.mark.skipif(not DATA.exists(), reason="SPILLWAY_DATA names no folder with cassettes")
HOSTS = ("api.openai.com", "api.mistral.ai", "localhost:8000", "openrouter.ai")


def recorded() -> list[Any]:
    if not DATA.exists():
        return [pytest.param(None, marks=RECORDED)]
    rows = [json.loads(line) for line in DATA.read_text().splitlines()]
    return [
        pytest.param(row, id=row["id"])
        for row in rows
        if row["request"]["url"].endswith("/chat/completions") and any(host in row["request"]["url"] for host in HOSTS)
    ]


def good() -> list[Any]:
    return [row for row in recorded() if row.values[0] is None or row.values[0]["status"] == 200]


def bad() -> list[Any]:
    return [row for row in recorded() if row.values[0] is None or row.values[0]["status"] != 200]


@asynccontextmanager
async def replaying(row: dict[str, Any], cuts: random.Random | None) -> AsyncIterator[str]:
    """Serve the recorded body, cut at random places where `cuts` is given."""
    body, kind = row["response"]["body"].encode(), row["response"]["headers"]["content-type"]
    places = sorted(cuts.sample(range(1, len(body)), min(40, len(body) - 1))) if cuts else []
    pieces = [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]

    head = f"HTTP/1.1 {row['status']} x\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    chunked = [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces]
    async with raw(head, *chunked, b"0\r\n\r\n") as port:
        yield f"http://127.0.0.1:{port}/v1"


async def replayed(row: dict[str, Any], cuts: random.Random | None = None) -> tuple[v1.Delta, Exchange]:
    exchange, whole = Exchange(), v1.Delta()
    async with replaying(row, cuts) as url:
        settings = ProviderSettings.model_validate(
            {"name": "openai", "region": "us", "base_url": url, "models": [{"name": "m"}]}
        )
        provider = OpenAI(settings, None)
        try:
            async for deltas in provider.stream(provider.prepare(spec(), "m"), call(), exchange):
                for delta in deltas:
                    merge_delta(whole, delta)
        finally:
            await provider.close()
    return whole, exchange


def expected(row: dict[str, Any]) -> tuple[str, list[tuple[str, str, str]], dict[str, int] | None]:
    """Text, tool calls and usage, read from the recording in the plainest way."""
    body = row["response"]["body"]
    calls: dict[int, list[str]] = {}
    text, usage = "", None
    if body.lstrip().startswith("{"):
        chunks = [json.loads(body)]
    else:
        lines = [line.strip().removeprefix("data:").strip() for line in body.splitlines() if line.startswith("data:")]
        chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            said = choice.get("message") or choice.get("delta") or {}
            text += said.get("content") or ""
            for place, made in enumerate(said.get("tool_calls") or ()):
                known = calls.setdefault(made.get("index", place), ["", "", ""])
                known[0] += made.get("id") or ""
                known[1] += made["function"].get("name") or ""
                known[2] += made["function"].get("arguments") or ""
    return text, [(id, name, arguments) for id, name, arguments in calls.values()], usage


@pytest.mark.parametrize("row", good())
async def test_text_tools_and_usage_are_those_of_the_recording(row: dict[str, Any]) -> None:
    text, calls, usage = expected(row)
    whole, exchange = await replayed(row)
    assert whole.text == text
    assert [(made.id, made.name, made.arguments) for made in whole.tool_calls] == calls
    assert (exchange.usage is None) == (usage is None)
    if usage is not None and exchange.usage is not None:
        assert exchange.usage.prompt_tokens == usage["prompt_tokens"]
        assert exchange.usage.completion_tokens == usage["completion_tokens"]
    assert len(exchange.finishes) == 1


@pytest.mark.parametrize("row", good())
async def test_the_result_does_not_depend_on_how_the_bytes_are_cut(row: dict[str, Any]) -> None:
    whole, exchange = await replayed(row)
    for seed in range(5):
        again, other = await replayed(row, random.Random(seed))
        assert again == whole
        assert (other.usage, other.finishes, other.model) == (exchange.usage, exchange.finishes, exchange.model)


@pytest.mark.parametrize("row", bad())
def test_recorded_errors_have_their_reason(row: dict[str, Any]) -> None:
    kinds = {401: errors.ProviderAuthFailed, 404: errors.TargetModelMissing, 429: errors.ProviderRateLimited}
    error = understood("openai", row["status"], json.loads(row["response"]["body"]), {}, now=0.0)
    assert type(error) is kinds[row["status"]]
