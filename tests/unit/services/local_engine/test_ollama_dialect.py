"""Ollama's own wire format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.local_engine.ollama_dialect import NATIVE, LineReader, OllamaDialect
from services.local_engine.runtime_errors import RUNTIMES
from spillway import v1
from spillway.errors import ConstraintUnsupported, TargetDown
from spillway.openai.answer import Answer
from spillway.openai.exchange import Exchange

DIALECT = OllamaDialect((*NATIVE.capabilities, v1.CAPABILITY_IMAGES), num_ctx=2048, keep_alive="5m")


def reader() -> tuple[LineReader, Exchange]:
    exchange = Exchange()
    return LineReader(Answer("ollama", 1, exchange, table=RUNTIMES)), exchange


def line(**told: Any) -> bytes:
    return json.dumps({"model": "m", "done": False, **told}).encode() + b"\n"


def test_a_prompt_that_is_too_long_is_to_be_an_error_and_not_to_be_cut() -> None:
    body = DIALECT.body(v1.GenerationSpec(text=v1.TextPrompt(text="hi")), "m")
    assert (body["truncate"], body["shift"]) == (False, False)
    assert body["options"] == {"num_ctx": 2048}
    assert body["keep_alive"] == "5m"


def test_a_conversation_keeps_its_images_and_tools() -> None:
    call = v1.ToolCall(id="1", name="find", arguments='{"id": 7}')
    image = v1.Image(data=b"png", mime_type="image/png")
    chat = v1.Chat(
        messages=[
            v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text="Look: "), v1.Part(image=image)]),
            v1.Message(role=v1.ROLE_ASSISTANT, parts=[v1.Part(tool_call=call)]),
            v1.Message(
                role=v1.ROLE_TOOL, parts=[v1.Part(tool_result=v1.ToolResult(tool_call_id="1", content="found"))]
            ),
        ]
    )
    spec = v1.GenerationSpec(chat=chat, constraint=v1.OutputConstraint(json_schema='{"type": "object"}'))
    body = DIALECT.body(spec, "m")
    assert body["messages"] == [
        {"role": "user", "content": "Look: ", "images": ["cG5n"]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find", "arguments": {"id": 7}}}]},
        {"role": "tool", "content": "found", "tool_name": "find"},
    ]
    assert body["format"] == {"type": "object"}


def test_an_image_by_its_address_is_refused_by_name() -> None:
    part = v1.Part(image=v1.Image(url="http://here/a.png"))
    chat = v1.Chat(messages=[v1.Message(role=v1.ROLE_USER, parts=[part])])
    with pytest.raises(ConstraintUnsupported, match=r"spec\.chat\.messages\[0\]\.parts\[0\]\.image\.url"):
        DIALECT.body(v1.GenerationSpec(chat=chat), "m")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_lines_are_read_however_the_bytes_are_cut(size: int) -> None:
    said = line(message={"content": "so", "thinking": "hm"}) + line(message={"content": " é"})
    said += line(message={"content": ""}, done=True, done_reason="length", prompt_eval_count=9, eval_count=2)
    found, exchange = reader()
    deltas = [delta for at in range(0, len(said), size) for delta in found.feed(said[at : at + size])]
    found.check()
    assert "".join(delta.text for delta in deltas) == "so é"
    assert "".join(delta.reasoning for delta in deltas) == "hm"
    assert found.done
    assert exchange.finishes[0].reason == v1.FINISH_REASON_LENGTH
    assert exchange.usage is not None
    assert (exchange.usage.prompt_tokens, exchange.usage.completion_tokens) == (9, 2)


def test_tools_that_are_called_end_the_answer_as_such() -> None:
    found, exchange = reader()
    call = {"function": {"name": "find", "arguments": {"id": 7}}}
    (delta,) = found.feed(line(message={"content": "", "tool_calls": [call, call]}))
    found.feed(line(done=True, done_reason="stop"))
    found.check()
    assert [(one.index, one.name, one.arguments) for one in delta.tool_calls] == [
        (0, "find", '{"id": 7}'),
        (1, "find", '{"id": 7}'),
    ]
    assert len({one.id for one in delta.tool_calls}) == 2
    assert exchange.finishes[0].reason == v1.FINISH_REASON_TOOL_CALLS


@pytest.mark.parametrize("said", [b'{"model": "m', b"<html>", b'{"error": "out of memory"}\n', b"[]\n", b"7\n"])
def test_what_is_no_answer_has_a_name(said: bytes) -> None:
    found, _ = reader()
    with pytest.raises(TargetDown) as raised:
        found.feed(said)
        found.feed(b"")
        found.check()
    assert "memory" not in raised.value.message


def test_an_answer_without_its_end_is_broken_off() -> None:
    found, _ = reader()
    found.feed(line(message={"content": "so"}))
    found.feed(b"")
    with pytest.raises(TargetDown, match="broke the answer off"):
        found.check()
