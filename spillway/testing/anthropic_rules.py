"""What Anthropic refuses of a request, as it says it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spillway.testing.openai_faults import Status

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
NO_SAMPLING_VERSION = "2026-10-21"
VERSIONS = frozenset({"2023-01-01", "2023-06-01", NO_SAMPLING_VERSION})
PARAMETERS = SAMPLING | {
    "model",
    "messages",
    "max_tokens",
    "system",
    "stream",
    "stop_sequences",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "metadata",
    "service_tier",
    "cache_control",
}
CONTENT = {
    "user": frozenset({"text", "image", "document", "tool_result"}),
    "assistant": frozenset({"text", "tool_use", "thinking", "redacted_thinking"}),
}
MAX_MARKS = 4
LEAST_BUDGET = 1024
UNTAKEN = frozenset({"minimum", "maximum", "multipleOf", "minLength", "maxLength", "maxItems", "pattern", "oneOf"})
REDACTED = "redacted-by-the-simulator"


def signature(thinking: str) -> str:
    """How the simulator signs what it thought."""
    return hashlib.sha256(f"signed {thinking}".encode()).hexdigest()


def wrong(body: object, version: str, *, takes_prefill: bool) -> Status | None:
    """What Anthropic would say against `body` in API version `version`, if anything."""
    if version not in VERSIONS:
        return _refusal("anthropic-version: header is required")
    if not isinstance(body, Mapping):
        return _refusal("The request body is not valid JSON")
    said = next(_objections(body, version, takes_prefill=takes_prefill), None)
    return None if said is None else _refusal(said)


def _refusal(said: str) -> Status:
    return Status(400, message=said)


def _objections(body: Mapping[str, Any], version: str, *, takes_prefill: bool) -> Iterator[str]:
    for name in sorted(body):
        if name not in PARAMETERS or (name in SAMPLING and version == NO_SAMPLING_VERSION):
            yield f"{name}: Extra inputs are not permitted"
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if not isinstance(body.get(name), kind):
            yield f"{name}: Field required"
    if body["max_tokens"] < 1:
        yield "max_tokens: must be greater than or equal to 1"
    if not body["messages"]:
        yield "messages: at least one message is required"
    for name, high in (("temperature", 1), ("top_p", 1)):
        if not 0 <= body.get(name, 0) <= high:
            yield f"{name}: range: 0..{high}"
    yield from _turns(body["messages"], takes_prefill=takes_prefill)
    yield from _thinking(body)
    yield from _tools(body)
    if len(marked(body)) > MAX_MARKS:
        yield f"A maximum of {MAX_MARKS} blocks with cache_control may be provided."
    config = body.get("output_config") or {}
    if config.get("effort", "high") not in ("low", "medium", "high", "xhigh", "max"):
        yield "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'"
    if form := config.get("format"):
        if form.get("type") != "json_schema":
            yield "output_config.format.type: Input should be 'json_schema'"
        yield from (f"output_config.format.schema: {said}" for said in _schema(form.get("schema")))


def blocks(content: object) -> list[Mapping[str, Any]]:
    """The blocks of a message's content, which may be a string."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())  # type: ignore[call-overload]


def marked(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The blocks with a cache breakpoint."""
    contents = [body.get("system"), *(message.get("content") for message in body["messages"])]
    return [block for content in contents for block in blocks(content) if block.get("cache_control")]


def _turns(messages: Sequence[Mapping[str, Any]], *, takes_prefill: bool) -> Iterator[str]:
    asked: set[str] = set()
    for at, message in enumerate(messages):
        role, content = message.get("role"), blocks(message.get("content"))
        if role not in CONTENT:
            yield f"messages.{at}.role: Input should be 'user' or 'assistant'"
            return
        if not content:
            yield f"messages.{at}: all messages must have non-empty content"
        for index, block in enumerate(content):
            yield from (f"messages.{at}.content.{index}{said}" for said in _block(block, role, asked))
        results = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
        if missing := sorted(asked.difference(results)):
            yield f"messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {missing}"
        if any(block["type"] != "tool_result" for block in content[: len(results)]):
            yield f"messages.{at}: `tool_result` blocks must come first"
        asked = {block["id"] for block in content if block["type"] == "tool_use"}
    last = messages[-1]
    if last["role"] == "assistant":
        if not takes_prefill:
            yield "This model does not support assistant message prefill."
        if blocks(last["content"])[-1].get("text", "x")[-1].isspace():
            yield "messages: final assistant content cannot end with trailing whitespace"


def _block(block: Mapping[str, Any], role: str, asked: set[str]) -> Iterator[str]:
    kind = block.get("type")
    if kind not in CONTENT[role]:
        yield f": Input tag '{kind}' found using 'type' does not match any of the expected tags"
        return
    if kind == "text" and not block.get("text"):
        yield ": text content blocks must be non-empty"
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        yield ".tool_use.input: Input should be a valid dictionary"
    if kind == "tool_result" and block.get("tool_use_id") not in asked:
        yield ": unexpected `tool_use_id` found in `tool_result` blocks"
    if kind == "image" and block["source"].get("type") not in ("base64", "url"):
        yield ".image.source: Input tag does not match any of the expected tags"
    if kind == "thinking" and block.get("signature") != signature(block.get("thinking", "")):
        yield ": Invalid `signature` in `thinking` block"
    if kind == "redacted_thinking" and block.get("data") != REDACTED:
        yield ": Invalid `data` in `redacted_thinking` block"
    if kind in ("thinking", "redacted_thinking") and "cache_control" in block:
        yield f".{kind}.cache_control: Extra inputs are not permitted"


def _thinking(body: Mapping[str, Any]) -> Iterator[str]:
    thinking = body.get("thinking") or {"type": "disabled"}
    if thinking.get("type") not in ("enabled", "adaptive", "disabled"):
        yield "thinking.type: Input should be 'enabled', 'adaptive' or 'disabled'"
    if thinking["type"] == "disabled":
        return
    if body.get("temperature", 1) != 1:
        yield "`temperature` may only be set to 1 when thinking is enabled."
    if "top_k" in body:
        yield "`top_k` must be unset when thinking is enabled."
    if body["messages"][-1]["role"] == "assistant":
        yield "messages: the final block may not be a prefill when thinking is enabled"
    if thinking["type"] == "adaptive":
        return
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < LEAST_BUDGET:
        yield f"thinking.enabled.budget_tokens: Input should be greater than or equal to {LEAST_BUDGET}"
    if budget >= body["max_tokens"]:
        yield "`max_tokens` must be greater than `thinking.budget_tokens`."
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        yield "Thinking may not be enabled when tool_choice forces tool use."
    yield from _unthought(body["messages"])


def _unthought(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A turn of the assistant's that waits for its tools begins with its thoughts, where it is to think on."""

    def answers(message: Mapping[str, Any]) -> bool:
        return bool(message["role"] == "user" and blocks(message["content"])[0]["type"] == "tool_result")

    at = len(messages) - 1
    if not answers(messages[at]):
        return
    while at > 0 and (messages[at - 1]["role"] == "assistant" or answers(messages[at - 1])):
        at -= 1
    first = blocks(messages[at]["content"])[0]["type"]
    if first not in ("thinking", "redacted_thinking"):
        yield f"messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{first}`."


def _tools(body: Mapping[str, Any]) -> Iterator[str]:
    tools = body.get("tools") or ()
    for at, tool in enumerate(tools):
        if not tool.get("name") or not isinstance(tool.get("input_schema"), Mapping):
            yield f"tools.{at}.custom.input_schema: Field required"
        elif tool["input_schema"].get("type") != "object":
            yield f"tools.{at}.custom.input_schema.type: Input should be 'object'"
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not tools:
        yield "tool_choice: may only be specified while providing tools."
    if choice.get("type") not in ("auto", "any", "tool", "none"):
        yield "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'"
    if choice.get("type") == "tool" and choice.get("name") not in [tool["name"] for tool in tools]:
        yield "tool_choice.name: Tool not found in provided tools"


def _schema(schema: object) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        yield "Input should be a valid dictionary"
        return
    for word in sorted(UNTAKEN & schema.keys()):
        yield f"For '{schema.get('type')}' type, property '{word}' is not supported"
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        yield "For 'object' type, 'additionalProperties' must be explicitly set to false"
    parts = [*(schema.get("properties") or {}).values(), *(schema.get("$defs") or {}).values()]
    parts += [*schema.get("anyOf", ()), *schema.get("allOf", ()), *([schema["items"]] if "items" in schema else ())]
    for part in parts:
        yield from _schema(part)
