"""What a provider's settings change of chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.openai import OpenAI, packed
from spillway import v1
from spillway.errors import RequestInvalid


def body(**settings: Any) -> dict[str, Any]:
    told = {"name": "p", "region": "us", "models": [{"name": "m"}], **settings}
    hello = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="hello")])
    spec = v1.GenerationSpec(chat=v1.Chat(messages=[hello]), prompt_cache=v1.PromptCache(key="k"))
    made: dict[str, Any] = json.loads(OpenAI(ProviderSettings.model_validate(told)).prepare(spec, "m").body)
    return made


@pytest.mark.parametrize(
    ("settings", "usage", "cache"),
    [
        ({}, True, True),
        ({"base_url": "https://compatible.example/v1"}, True, False),
        ({"base_url": "https://compatible.example/v1", "prompt_cache": True}, True, True),
        ({"base_url": "https://compatible.example/v1", "stream_usage": False}, False, False),
        ({"prompt_cache": False}, True, False),
    ],
)
def test_a_server_is_sent_only_what_it_knows(settings: dict[str, Any], usage: bool, cache: bool) -> None:
    told = body(**settings)
    assert ("stream_options" in told, "prompt_cache_key" in told) == (usage, cache)


def test_what_is_no_json_or_nested_without_end_is_not_sent() -> None:
    nested: dict[str, Any] = {}
    for _ in range(5000):
        nested = {"items": nested}
    for schema in (json.loads('{"maximum": NaN}'), json.loads('{"maximum": 1e999}'), nested):
        with pytest.raises(RequestInvalid):
            packed({"tools": [{"function": {"parameters": schema}}]})
