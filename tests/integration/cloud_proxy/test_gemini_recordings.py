"""Every recorded exchange with Gemini, read through the real HTTP stack however its body is cut."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import pytest

from services.cloud_proxy.wires.gemini import Gemini
from spillway import errors, v1
from spillway.errors import SpillwayError
from spillway.testing.gemini_simulator import GeminiSimulator, serving_gemini
from spillway.testing.openai_wire import Called
from tests.integration.cloud_proxy.cassettes import CUTTINGS, RECORDED, Row, answered, playing, refused, rows
from tests.integration.cloud_proxy.rig import spec

GEMINI = "generativelanguage.googleapis.com"

pytestmark = pytest.mark.conformance


def chunks(row: Row) -> Iterator[Mapping[str, Any]]:
    """The responses of a recording, read plainly."""
    body = row["response"]["body"]
    events = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    yield from (json.loads(event) for event in events or [body])


@pytest.mark.parametrize("row", rows(answered(GEMINI)))
async def test_a_recorded_answer_is_the_same_however_it_is_cut(row: Row) -> None:
    async with playing(row, Gemini, "gemini") as player:
        played = await player.require_same_however_cut()
    told = list(chunks(row))
    parts = [part for chunk in told for part in chunk["candidates"][0]["content"]["parts"]]
    calls = [part["functionCall"] for part in parts if "functionCall" in part]
    (choice,), exchange, usage = played.choices, played.exchange, told[-1]["usageMetadata"]
    assert choice.text == "".join(part.get("text", "") for part in parts)
    assert [(call.name, json.loads(call.arguments)) for call in choice.tool_calls] == [
        (call["name"], call["args"]) for call in calls
    ]
    assert all(call.id for call in choice.tool_calls)
    assert told[-1]["candidates"][0]["finishReason"] == "STOP"
    wanted = v1.FINISH_REASON_TOOL_CALLS if calls else v1.FINISH_REASON_STOP
    assert [finish.reason for finish in exchange.finishes] == [wanted]
    thoughts = usage.get("thoughtsTokenCount")
    counted = v1.Usage(prompt_tokens=usage["promptTokenCount"], reasoning_tokens=thoughts)
    counted.completion_tokens = usage["candidatesTokenCount"] + (thoughts or 0)
    assert exchange.usage == counted
    assert counted.prompt_tokens + counted.completion_tokens == usage["totalTokenCount"]
    assert (exchange.model, exchange.provider_request_id) == (told[0]["modelVersion"], told[0]["responseId"])


REFUSALS: dict[int, tuple[type[SpillwayError], float | None, str]] = {
    400: (errors.ProviderAuthFailed, None, "API_KEY_INVALID"),
    404: (errors.TargetModelMissing, None, "NOT_FOUND"),
    429: (errors.ProviderRateLimited, 48.0, "RESOURCE_EXHAUSTED"),
}


@pytest.mark.parametrize("row", rows(refused(GEMINI)))
async def test_a_recorded_refusal_has_its_reason_and_its_wait(row: Row) -> None:
    kind, wait_s, code = REFUSALS[row["status"]]
    for cuts in (None, *map(random.Random, range(CUTTINGS))):
        # A player each: a key that is refused once is not asked with again.
        async with playing(row, Gemini, "gemini") as player:
            with pytest.raises(SpillwayError) as caught:
                await player.play(cuts)
        assert type(caught.value) is kind
        assert caught.value.retry_after_s == wait_s
        assert caught.value.metadata["code"] == code
        assert json.loads(row["response"]["body"])["error"]["message"][:30] not in caught.value.message


@RECORDED
def test_all_seven_recordings_are_played() -> None:
    assert (len(rows(answered(GEMINI))), len(rows(refused(GEMINI)))) == (4, 3)


SAID = {
    "words": {"contents": [{"parts": [{"text": "hello there"}]}], "generationConfig": {"candidateCount": 2}},
    "thoughts": {
        "contents": [{"parts": [{"text": "höre 👂 zu"}]}],
        "generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}},
    },
    "calls": {
        "contents": [{"parts": [{"text": "look"}]}],
        "tools": [{"functionDeclarations": [{"name": "look"}]}],
    },
}


@pytest.mark.parametrize("name", SAID)
async def test_a_stream_of_many_chunks_is_the_same_however_it_is_cut(name: str) -> None:
    """The recorded stream is of one chunk; those of the simulator have thoughts, signatures and several choices."""
    calls = [Called("look", '{"at":"Åre"}')] * 2 if name == "calls" else []
    async with (
        serving_gemini(GeminiSimulator(calls=lambda body: calls)) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/models/m:streamGenerateContent?alt=sse", json=SAID[name]) as response,
    ):
        row = {"status": 200, "response": {"headers": dict(response.headers), "body": await response.text()}}
    choices = 2 if name == "words" else 1
    async with playing(row, Gemini, "gemini") as player:
        whole = await player.play(asked=spec(sampling=v1.Sampling(n=choices)))
        for seed in range(CUTTINGS):
            again = await player.play(random.Random(seed), asked=spec(sampling=v1.Sampling(n=choices)))
            assert again.facts == whole.facts, f"seed {seed}"
    assert len(whole.choices) == choices
    assert all(choice.HasField("provider_state") for choice in whole.choices)
