"""A cloud proxy before a simulated Anthropic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from spillway import v1
from spillway.testing.anthropic_simulator import AnthropicSimulator
from tests.integration.cloud_proxy.rig import Rig, running, spec

OLD, NEW, PREFILLED = "claude-haiku-4-5-20251001", "claude-opus-4-8", "claude-sonnet-4-5"


@asynccontextmanager
async def asking_claude(simulator: AnthropicSimulator, store_url: str, **provider: Any) -> AsyncIterator[Rig]:
    """Run a cloud proxy before `simulator`, with models that think within a budget, adaptively, or take a prefill."""
    models = [{"name": OLD}, {"name": NEW}, {"name": PREFILLED, "capabilities": ["prefill"]}]
    told = {"name": "claude", "kind": "anthropic", "price_list": "anthropic", "prefill": "plain", "models": models}
    async with running(simulator, store_url, **{**told, **provider}) as rig:
        yield rig


def claude(text: str = "hello there", *, model: str = OLD, **more: Any) -> v1.GenerationSpec:
    """A request for `model` of the simulated Anthropic."""
    return spec(text, model=f"claude/{model}", **more)


def asked_with(*messages: v1.Message, model: str = OLD, **more: Any) -> v1.GenerationSpec:
    """The same, with a conversation."""
    return claude(model=model, chat=v1.Chat(messages=messages), **more)


def said(role: v1.Role.ValueType, *parts: v1.Part | str, **more: Any) -> v1.Message:
    """A message of `parts`, of which a text may be given as it is."""
    told = [v1.Part(text=part) if isinstance(part, str) else part for part in parts]
    return v1.Message(role=role, parts=told, **more)


def answered(content: v1.Delta) -> v1.Message:
    """The assistant's message that an answer becomes when the conversation goes on."""
    parts = [v1.Part(provider_state=content.provider_state)] if content.HasField("provider_state") else []
    parts += [v1.Part(text=content.text)] if content.text else []
    calls = [v1.ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in content.tool_calls]
    return v1.Message(role=v1.ROLE_ASSISTANT, parts=[*parts, *(v1.Part(tool_call=call) for call in calls)])


def results(content: v1.Delta, told: str) -> v1.Message:
    """What the tools of an answer say."""
    found = [v1.ToolResult(tool_call_id=call.id, content=told) for call in content.tool_calls]
    return v1.Message(role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=result) for result in found])
