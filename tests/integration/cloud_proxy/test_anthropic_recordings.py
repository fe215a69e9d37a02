"""What Anthropic really sent, read through the whole HTTP stack, however its bytes are cut."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.anthropic import Anthropic
from spillway import errors, v1
from spillway.errors import SpillwayError
from tests.integration.cloud_proxy.cassettes import DATA, RECORDED, Played, answered, playing, refused, rows
from tests.integration.cloud_proxy.rig import spec

pytestmark = pytest.mark.conformance

URL = "api.anthropic.com"
FINISHES = {"end_turn": v1.FINISH_REASON_STOP, "tool_use": v1.FINISH_REASON_TOOL_CALLS}
REFUSALS = {401: errors.ProviderAuthFailed, 404: errors.TargetModelMissing}
WAITS = {"q1_anthropic_429_no_retry_after": 1.0, "q2_anthropic_429_retry_after": 16.0}


@dataclass(slots=True)
class Plain:
    """A recording read with nothing of ours: line by line, event by event."""

    text: str = ""
    calls: list[list[str]] = field(default_factory=list)
    stop_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, body: str) -> Plain:
        plain = cls()
        if body.startswith("{"):
            told = json.loads(body)
            for block in told["content"]:
                plain.text += block.get("text", "")
                if block["type"] == "tool_use":
                    plain.calls.append([block["id"], block["name"], json.dumps(block["input"])])
            plain.stop_reason, plain.usage = told["stop_reason"], told["usage"]
            return plain
        for line in body.splitlines():
            if line.startswith("data: "):
                plain._add(json.loads(line.removeprefix("data: ")))
        return plain

    def _add(self, event: dict[str, Any]) -> None:
        block, delta = event.get("content_block", {}), event.get("delta", {})
        if block.get("type") == "tool_use":
            self.calls.append([block["id"], block["name"], ""])
        self.text += block.get("text", "") + delta.get("text", "")
        if "partial_json" in delta:
            self.calls[-1][2] += delta["partial_json"]
        self.stop_reason = delta.get("stop_reason", self.stop_reason)
        self.usage.update(event.get("usage", event.get("message", {}).get("usage", {})))


def require_equal(played: Played, plain: Plain) -> None:
    """Fail unless what was played says what the plain reading says."""
    [content] = played.choices
    assert content.text == plain.text
    called = [[call.id, call.name, json.loads(call.arguments)] for call in content.tool_calls]
    assert called == [[id, name, json.loads(arguments or "{}")] for id, name, arguments in plain.calls]
    assert [finish.reason for finish in played.exchange.finishes] == [FINISHES[plain.stop_reason]]
    usage, told = played.exchange.usage, plain.usage
    assert usage is not None
    read, written = told["cache_read_input_tokens"], told["cache_creation_input_tokens"]
    assert usage.prompt_tokens == told["input_tokens"] + read + written
    assert (usage.cached_prompt_tokens, usage.cache_write_prompt_tokens) == (read, written)
    assert usage.completion_tokens == told["output_tokens"]
    assert not usage.HasField("reasoning_tokens")


@pytest.mark.parametrize("row", rows(answered(URL)))
async def test_a_recorded_answer_says_the_same_however_it_is_cut(row: dict[str, Any]) -> None:
    async with playing(row, Anthropic, "anthropic") as player:
        played = await player.require_same_however_cut()
    require_equal(played, Plain.read(row["response"]["body"]))
    assert played.exchange.model.startswith("claude-")
    assert played.exchange.provider_request_id == row["response"]["headers"]["request-id"]


@pytest.mark.parametrize("row", rows(refused(URL)))
async def test_a_recorded_refusal_has_its_reason(row: dict[str, Any]) -> None:
    async with playing(row, Anthropic, "anthropic") as player:
        with pytest.raises(SpillwayError) as caught:
            await player.play()
    assert type(caught.value) is REFUSALS[row["status"]]
    assert caught.value.metadata["code"] == json.loads(row["response"]["body"])["error"]["type"]
    assert caught.value.retry_after_s is None
    assert "no-such-model" not in str(caught.value)


@pytest.mark.parametrize("row", rows(answered(URL)))
def test_recorded_headers_tell_what_is_left(row: dict[str, Any]) -> None:
    headers = row["response"]["headers"]
    left = {one.name: one for one in wire().allowances(headers, now=0.0)}
    assert left["requests_per_minute"].remaining == int(headers["anthropic-ratelimit-requests-remaining"])
    assert left["requests_per_minute"].limit == int(headers["anthropic-ratelimit-requests-limit"])
    told = headers["anthropic-ratelimit-input-tokens-remaining"]
    assert ("input_tokens_per_minute" in left) is told.isdecimal()
    assert all(0 <= (one.reset_s or 0.0) < 60 for one in left.values())


@RECORDED
@pytest.mark.parametrize("name", WAITS)
def test_the_wait_of_a_quoted_429_is_the_providers(name: str) -> None:
    quoted = {one["id"]: one for one in json.loads(DATA.with_name("quoted_errors.json").read_text())["items"]}[name]
    headers = quoted["headers"]
    now = parsedate_to_datetime(headers["date"]).timestamp() + 3600 if "date" in headers else 0.0
    error = wire().refusal(quoted["status"], quoted["body"], headers, now=now, request_id="req_x")
    assert isinstance(error, errors.ProviderRateLimited)
    assert error.retry_after_s == WAITS[name]


@pytest.mark.parametrize("row", rows(lambda row: row["id"] == "21_anthropic_chat_stream#0"))
async def test_a_request_goes_out_as_the_recorded_one_did(row: dict[str, Any]) -> None:
    recorded = json.loads(row["request"]["body"])
    async with playing(row, Anthropic, "anthropic") as player:
        await player.play(
            asked=spec("Count from 1 to 3", sampling=v1.Sampling(max_tokens=recorded["max_tokens"])),
            model=recorded["model"],
        )
        [head, body] = player.cassette.asked[0].split(b"\r\n\r\n")
    assert json.loads(body) == recorded
    assert b"anthropic-version: 2023-06-01" in head.lower()
    assert b"x-api-key: sk-recorded" in head.lower()


def wire() -> Anthropic:
    return Anthropic(
        ProviderSettings.model_validate(
            {"name": "claude", "kind": "anthropic", "region": "us", "models": [{"name": "claude-sonnet-4-5"}]}
        )
    )
