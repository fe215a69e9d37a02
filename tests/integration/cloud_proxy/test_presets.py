"""How known providers differ from OpenAI, through the whole proxy: one test for each family of differences."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from spillway import errors, v1
from spillway.testing.openai_simulator import OpenAISimulator
from tests.integration.cloud_proxy.rig import Rig, raw, running, spec

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@asynccontextmanager
async def answering(preset: str, valkey: str, *pieces: bytes, **more: Any) -> AsyncIterator[Rig]:
    """A proxy before a server that speaks as the provider of `preset` does."""
    settings = {"preset": preset, "price_list": None, "models": [{"name": "m"}], **more}
    async with (
        raw(*pieces) as port,
        running(OpenAISimulator(), valkey, url=f"http://127.0.0.1:{port}/v1", **settings) as rig,
    ):
        yield rig


def asked(**more: Any) -> v1.GenerationSpec:
    return spec(**{"model": "openai/m", **more})


def event(told: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(told)}\n\n".encode()


def chunk(delta: dict[str, Any], *, finish: str | None = None, **more: Any) -> bytes:
    return event({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})


def refusal(status: int, body: dict[str, Any]) -> bytes:
    told = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {len(told)}\r\n\r\n"
    return head.encode() + told


async def test_deepseek_tells_reasoning_and_cached_tokens_in_fields_of_its_own(valkey: str) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 6, "prompt_cache_miss_tokens": 3}
    pieces = (
        chunk({"role": "assistant", "content": None, "reasoning_content": "hm"}),
        chunk({"content": "4", "reasoning_content": None}),
        chunk({"content": ""}, finish="stop", usage=usage),
    )
    async with answering("deepseek", valkey, HEAD, *pieces, b"data: [DONE]\n\n") as rig:
        answer = await rig.stream(asked())
    [choice] = answer.choices
    assert (choice.content.reasoning, choice.content.text, answer.usage.cached_prompt_tokens) == ("hm", "4", 6)


async def test_deepseek_without_resources_gives_no_whole_answer(valkey: str) -> None:
    pieces = (chunk({"content": "4"}), chunk({}, finish="insufficient_system_resource"))
    async with answering("deepseek", valkey, HEAD, *pieces) as rig:
        with pytest.raises(errors.ProviderError):
            await rig.stream(asked())


async def test_groq_tells_usage_in_an_object_of_its_own(valkey: str) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "queue_time": 0.1}
    pieces = (
        chunk({"role": "assistant", "content": ""}, x_groq={"id": "req_1"}),
        chunk({"reasoning": "hm"}),
        chunk({"content": "4"}),
        chunk({}, finish="stop", x_groq={"id": "req_1", "usage": usage}),
    )
    async with answering("groq", valkey, HEAD, *pieces, b"data: [DONE]\n\n") as rig:
        answer = await rig.stream(asked())
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (9, 4)
    assert answer.choices[0].content.reasoning == "hm"


async def test_groq_that_stops_early_gives_no_whole_answer(valkey: str) -> None:
    pieces = (chunk({"content": "4"}), chunk({}, finish="stop", x_groq={"error": "over capacity"}))
    async with answering("groq", valkey, HEAD, *pieces) as rig:
        with pytest.raises(errors.ProviderError):
            await rig.stream(asked())


async def test_openrouter_tells_its_cost_between_comments(valkey: str) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "cost": 0.0000123}
    pieces = (
        b": OPENROUTER PROCESSING\n\n",
        chunk({"role": "assistant", "content": "", "reasoning": "hm"}, provider="Acme"),
        b": OPENROUTER PROCESSING\n\n",
        chunk({"content": "4"}, finish="stop"),
        event({"model": "m", "choices": [], "usage": usage}),
        b"data: [DONE]\n\n",
    )
    async with answering("openrouter", valkey, HEAD, *pieces) as rig:
        answer = await rig.stream(asked())
    assert (answer.choices[0].content.reasoning, answer.choices[0].content.text) == ("hm", "4")
    assert answer.usage.cost_nano_usd == 12_300


async def test_an_error_within_openrouters_stream_is_one(valkey: str) -> None:
    told = {"error": {"code": 429, "message": "secret"}, "choices": [{"index": 0, "finish_reason": "error"}]}
    async with answering("openrouter", valkey, HEAD, chunk({"content": "4"}), event(told)) as rig:
        with pytest.raises(errors.ProviderRateLimited) as raised:
            await rig.stream(asked())
    assert "secret" not in raised.value.message


async def test_together_ends_by_eos(valkey: str) -> None:
    pieces = (chunk({"content": "4"}), chunk({"content": ""}, finish="eos"))
    async with answering("together", valkey, HEAD, *pieces, b"data: [DONE]\n\n") as rig:
        answer = await rig.stream(asked())
    assert answer.choices[0].finish.reason == v1.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("preset", "status", "body", "kind"),
    [
        ("together", 403, {"error": {"message": "too many tokens"}}, errors.ContextLengthExceeded),
        ("groq", 498, {"error": {"code": "capacity_exceeded"}}, errors.TargetBusy),
        ("groq", 400, {"error": {"code": "model_decommissioned"}}, errors.TargetModelMissing),
        ("groq", 400, {"error": {"code": "tool_use_failed", "failed_generation": "x"}}, errors.ProviderError),
        ("groq", 413, {"error": {"type": "tokens", "code": "rate_limit_exceeded"}}, errors.ProviderRateLimited),
        (
            "openrouter",
            403,
            {"error": {"code": 403, "metadata": {"reasons": ["x"], "flagged_input": "x"}}},
            errors.ContentFiltered,
        ),
        ("openrouter", 403, {"error": {"code": 403, "message": "no permission"}}, errors.ProviderAuthFailed),
        ("openrouter", 402, {"error": {"code": 402}}, errors.ProviderOutOfCredit),
        (
            "openrouter",
            402,
            {"error": {"code": 402, "metadata": {"limit_source": "openrouter_in_flight_budget"}}},
            errors.ProviderRateLimited,
        ),
        ("deepseek", 402, {"error": {"message": "Insufficient Balance"}}, errors.ProviderOutOfCredit),
        ("xai", 400, {"code": "Client specified an invalid argument", "error": "secret"}, errors.RequestInvalid),
    ],
)
async def test_an_error_that_one_provider_tells_its_own_way_has_its_reason(
    valkey: str, preset: str, status: int, body: dict[str, Any], kind: type[errors.SpillwayError]
) -> None:
    async with answering(preset, valkey, refusal(status, body)) as rig:
        with pytest.raises(kind) as raised:
            await rig.stream(asked())
    assert type(raised.value) is kind
    assert "secret" not in raised.value.message


async def test_azures_dated_api_answers_by_deployment(valkey: str) -> None:
    pieces = (chunk({"content": "4"}, finish="stop"), b"data: [DONE]\n\n")
    async with answering("azure", valkey, HEAD, *pieces, api_version="2024-10-21") as rig:
        answer = await rig.stream(asked())
    assert answer.choices[0].content.text == "4"
