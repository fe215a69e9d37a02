"""Recorded exchanges with Mistral, replayed: equal however the bytes are cut."""

from __future__ import annotations

import json

import pytest

from services.cloud_proxy.wires.mistral import Mistral
from spillway import errors, v1
from tests.integration.cloud_proxy.cassettes import Row, answered, playing, refused, rows
from tests.integration.cloud_proxy.test_conformance import expected

pytestmark = pytest.mark.conformance

HOST = "api.mistral.ai/v1/chat/completions"


@pytest.mark.parametrize("row", rows(answered(HOST)))
async def test_text_and_usage_are_those_of_the_recording_however_it_is_cut(row: Row) -> None:
    text, calls, usage = expected(row)
    async with playing(row, Mistral, "mistral") as player:
        played = await player.require_same_however_cut()
    (whole,), exchange = played.choices, played.exchange
    assert usage is not None
    assert exchange.usage is not None
    assert (whole.text, [call.id for call in whole.tool_calls]) == (text, [id for id, _, _ in calls])
    assert exchange.usage.prompt_tokens == usage["prompt_tokens"]
    assert exchange.usage.completion_tokens == usage["completion_tokens"]
    assert exchange.usage.HasField("cached_prompt_tokens") == ("prompt_tokens_details" in usage)
    assert [finish.reason for finish in exchange.finishes] == [v1.FINISH_REASON_STOP]
    headers = row["response"]["headers"]
    assert exchange.provider_request_id == headers["mistral-correlation-id"]
    left = {allowance.name: (allowance.remaining, allowance.limit) for allowance in exchange.allowances}
    for name, what in (("requests_per_minute", "req-minute"), ("tokens_per_minute", "tokens-minute")):
        if f"x-ratelimit-limit-{what}" in headers:
            told = tuple(int(headers[f"x-ratelimit-{which}-{what}"]) for which in ("remaining", "limit"))
            assert left.pop(name) == told
    assert not left


@pytest.mark.parametrize("row", rows(refused(HOST)))
async def test_the_recorded_refusal_of_a_key_has_its_reason_and_passes_no_sentence_on(row: Row) -> None:
    async with playing(row, Mistral, "mistral") as player:
        with pytest.raises(errors.ProviderAuthFailed) as raised:
            await player.play()
    assert json.loads(row["response"]["body"])["detail"] not in raised.value.message
