"""Recorded exchanges with OpenAI and compatible servers, replayed: equal however the bytes are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.cloud_proxy.wires.openai import OpenAI
from spillway import errors
from tests.integration.cloud_proxy.cassettes import Row, answered, playing, refused, rows

pytestmark = pytest.mark.conformance

HOSTS = tuple(f"{host}/chat/completions" for host in ("api.openai.com/v1", "localhost:8000/v1", "openrouter.ai/api/v1"))


def expected(row: Row) -> tuple[str, list[tuple[str, str, str]], dict[str, Any] | None]:
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


@pytest.mark.parametrize("row", rows(answered(*HOSTS)))
async def test_text_tools_and_usage_are_those_of_the_recording_however_it_is_cut(row: Row) -> None:
    text, calls, usage = expected(row)
    async with playing(row, OpenAI, "openai") as player:
        played = await player.require_same_however_cut()
    (whole,), exchange = played.choices, played.exchange
    assert whole.text == text
    assert [(made.id, made.name, made.arguments) for made in whole.tool_calls] == calls
    assert (exchange.usage is None) == (usage is None)
    if usage is not None and exchange.usage is not None:
        assert exchange.usage.prompt_tokens == usage["prompt_tokens"]
        assert exchange.usage.completion_tokens == usage["completion_tokens"]
    assert len(exchange.finishes) == 1


@pytest.mark.parametrize("row", rows(refused(*HOSTS)))
async def test_recorded_errors_have_their_reason(row: Row) -> None:
    kinds = {401: errors.ProviderAuthFailed, 404: errors.TargetModelMissing, 429: errors.ProviderRateLimited}
    async with playing(row, OpenAI, "openai") as player:
        with pytest.raises(kinds[row["status"]]) as raised:
            await player.play()
    assert type(raised.value) is kinds[row["status"]]
