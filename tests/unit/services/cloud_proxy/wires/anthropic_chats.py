"""Conversations and settings to ask Anthropic with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.anthropic import Anthropic
from spillway import v1

OLD, NEW, MYTHOS, PREFILLED = "claude-haiku-4-5-20251001", "claude-opus-4-8", "claude-mythos-5", "claude-sonnet-4-5"
MIDDLE = "claude-sonnet-4-6"


def wire() -> Anthropic:
    """Speaks for one model of each generation."""
    models: list[dict[str, Any]] = [{"name": name} for name in (OLD, NEW, MYTHOS, MIDDLE)]
    models.append({"name": PREFILLED, "capabilities": ["prefill"]})
    told = {"name": "claude", "kind": "anthropic", "region": "us", "prefill": "plain", "models": models}
    return Anthropic(ProviderSettings.model_validate(told))


def asked(spec: v1.GenerationSpec, model: str = OLD) -> dict[str, Any]:
    """The body of the request."""
    body: dict[str, Any] = json.loads(wire().prepare(spec, model).body)
    return body


def user(*parts: v1.Part | str, **more: Any) -> v1.Message:
    return _message(v1.ROLE_USER, parts, **more)


def assistant(*parts: v1.Part | str, **more: Any) -> v1.Message:
    return _message(v1.ROLE_ASSISTANT, parts, **more)


def system(*parts: v1.Part | str, **more: Any) -> v1.Message:
    return _message(v1.ROLE_SYSTEM, parts, **more)


def _message(role: v1.Role.ValueType, parts: Iterable[v1.Part | str], **more: Any) -> v1.Message:
    told = [v1.Part(text=part) if isinstance(part, str) else part for part in parts]
    return v1.Message(role=role, parts=told, **more)


def called(id: str = "t1", arguments: str = '{"city":"Rome"}') -> v1.Part:
    return v1.Part(tool_call=v1.ToolCall(id=id, name="look", arguments=arguments))


def result(*ids: str, **more: Any) -> v1.Message:
    parts = [v1.Part(tool_result=v1.ToolResult(tool_call_id=id, content=f"of {id}", **more)) for id in ids]
    return v1.Message(role=v1.ROLE_TOOL, parts=parts)


def state(*blocks: tuple[int, dict[str, Any]]) -> v1.Part:
    return v1.Part(provider_state=v1.ProviderState(wire="anthropic", state=json.dumps(blocks).encode()))


def chat(*messages: v1.Message, **more: Any) -> v1.GenerationSpec:
    return v1.GenerationSpec(chat=v1.Chat(messages=messages), **more)


def hello(**more: Any) -> v1.GenerationSpec:
    return chat(user("hello"), **more)


def sampled(**sampling: Any) -> v1.GenerationSpec:
    return hello(sampling=v1.Sampling(**sampling))


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s1"}
