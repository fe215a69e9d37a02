"""The body of a chat completion, read into a spec of the contract."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from spillway import v1

from .failure import wrong
from .parameters import Asked, Parameters, read_shared, read_stream

ROLES = {
    "system": v1.ROLE_SYSTEM,
    "developer": v1.ROLE_SYSTEM,
    "user": v1.ROLE_USER,
    "assistant": v1.ROLE_ASSISTANT,
    "tool": v1.ROLE_TOOL,
}
EFFORTS = {
    "none": v1.REASONING_EFFORT_NONE,
    "low": v1.REASONING_EFFORT_LOW,
    "medium": v1.REASONING_EFFORT_MEDIUM,
    "high": v1.REASONING_EFFORT_HIGH,
}
MODES = {
    "auto": v1.TOOL_CHOICE_MODE_AUTO,
    "none": v1.TOOL_CHOICE_MODE_NONE,
    "required": v1.TOOL_CHOICE_MODE_REQUIRED,
}
_OF_ANSWERS = frozenset({"refusal", "annotations", "audio", "function_call", "reasoning", "reasoning_content"})
"""What an answer has beside its text; callers send it back with the conversation."""
_MARKS = {"prompt_cache_breakpoint": frozenset({"mode", "ttl"}), "cache_control": frozenset({"type", "ttl"})}
"""How a part says that the prompt up to here comes again, in OpenAI's words and in Anthropic's -> what it may hold."""
_LIFETIMES = {"in_memory": None, "in-memory": None, "24h": 86_400, "12h": 43_200, "1h": 3600, "30m": 1800, "5m": 300}
"""Seconds that a prompt's beginning is to be kept; None: as long as the provider likes."""


def read_chat(body: object) -> Asked:
    """Return what `body` asks for. Raises RequestInvalid or ParameterUnknown naming the parameter that is wrong."""
    told, spec = Parameters(body), v1.GenerationSpec()
    messages = told.list("messages")
    if not messages:
        raise wrong("messages", "is empty: give at least one message")
    spec.chat.messages.extend(_message(message, f"messages[{at}]") for at, message in enumerate(messages))
    read_shared(told, spec)
    longest = told.integer("max_completion_tokens")
    if longest is not None:
        if spec.sampling.HasField("max_tokens") and spec.sampling.max_tokens != longest:
            raise wrong("max_tokens", "differs from max_completion_tokens: send one of them")
        spec.sampling.max_tokens = longest
    _read_tools(told, spec)
    _read_format(told.within("response_format"), spec)
    if (effort := told.text("reasoning_effort")) is not None:
        if effort not in EFFORTS:
            raise wrong("reasoning_effort", f"{effort[:20]!r} is not one of {', '.join(EFFORTS)}")
        spec.reasoning_effort = EFFORTS[effort]
    _read_logprobs(told, spec)
    _read_prompt_cache(told, spec)
    told.only("modalities", ["text"], why="answers are text")
    if told.raw("parallel_tool_calls") is False:
        spec.extra["parallel_tool_calls"] = False  # the contract has no word for it: for the target that knows it
    if (verbosity := told.text("verbosity")) is not None:
        spec.extra["verbosity"] = verbosity
    return read_stream(told, spec)


def _message(message: object, place: str) -> v1.Message:
    told = Parameters(message, place)
    role = told.text("role")
    if role not in ROLES:
        raise wrong(f"{place}.role", f"must be one of {', '.join(ROLES)}")
    found = v1.Message(role=ROLES[role], name=told.text("name") or "")
    content, where = told.raw("content"), f"{place}.content"
    found.cache_breakpoint = _is_marked(content, where)
    if role == "tool":
        call = told.text("tool_call_id")
        if not call:
            raise wrong(f"{place}.tool_call_id", "is missing: which call is this the result of?")
        text = "".join(part.text for part in _parts(content, where, texts_only=True))
        found.parts.add(tool_result=v1.ToolResult(tool_call_id=call, content=text))
    else:
        calls = told.list("tool_calls") if role == "assistant" else []
        if role == "assistant" and (state := told.within("provider_state")) is not None:
            found.parts.add(provider_state=_provider_state(state, f"{place}.provider_state"))
        if content is not None and not (calls and content == ""):
            found.parts.extend(_parts(content, where, texts_only=role != "user"))
        elif not calls:
            raise wrong(where, "is missing")
        for at, call in enumerate(calls):
            found.parts.add(tool_call=_call(call, f"{place}.tool_calls[{at}]"))
    if role == "assistant":
        told.ignore(_OF_ANSWERS)
    told.end()
    return found


def _parts(content: object, place: str, *, texts_only: bool) -> Iterator[v1.Part]:
    if isinstance(content, str):
        yield v1.Part(text=content)
        return
    if not isinstance(content, list) or not content:
        raise wrong(place, "must be a text or a list of parts")
    for at, part in enumerate(content):
        where = f"{place}[{at}]"
        told = Parameters(part, where)
        told.ignore(frozenset(_MARKS))
        kind = told.text("type")
        if kind in ("text", "refusal"):
            text = told.text(kind)
            if text is None:
                raise wrong(f"{where}.{kind}", "is missing")
            yield v1.Part(text=text)
        elif kind == "image_url" and not texts_only:
            yield v1.Part(image=_image(told.within("image_url"), f"{where}.image_url"))
        else:
            raise wrong(f"{where}.type", "must be text" if texts_only else "must be text or image_url")
        told.end()


def _is_marked(content: object, place: str) -> bool:
    """Whether a part of `content` says that the prompt up to its message comes again."""
    marked = False
    for at, part in enumerate(content if isinstance(content, list) else ()):
        told = Parameters(part, f"{place}[{at}]")
        for name, known in _MARKS.items():
            if (mark := told.within(name)) is not None:
                mark.ignore(known)
                mark.end()
                marked = True
    return marked


def _provider_state(told: Parameters, place: str) -> v1.ProviderState:
    wire, state = told.text("wire"), told.text("state")
    told.end()
    try:
        return v1.ProviderState(wire=wire or "", state=base64.b64decode(state or "", validate=True))
    except ValueError:  # of binascii, or for a character that is not ASCII
        raise wrong(f"{place}.state", "is not base64: send it back as it came") from None


def _image(told: Parameters | None, place: str) -> v1.Image:
    url = told.text("url") if told is not None else None
    if told is None or not url:
        raise wrong(f"{place}.url", "is missing")
    told.only("detail", "auto", why="only auto is known here")
    told.end()
    if url.startswith(("https://", "http://")):
        return v1.Image(url=url)
    head, comma, data = url.partition(",")
    mime_type, semicolon, encoding = head.removeprefix("data:").partition(";")
    if not url.startswith("data:") or not comma or not semicolon or encoding != "base64" or not mime_type:
        raise wrong(f"{place}.url", "must be an https or http URL, or data:TYPE;base64,DATA")
    try:
        return v1.Image(data=base64.b64decode(data, validate=True), mime_type=mime_type)
    except ValueError:  # of binascii, or for a character that is not ASCII
        raise wrong(f"{place}.url", "its data is not base64") from None


def _call(call: object, place: str) -> v1.ToolCall:
    told = Parameters(call, place)
    told.only("type", "function", why="must be function")
    function, id = told.within("function"), told.text("id")
    if function is None or not id:
        raise wrong(place, "needs an id and a function")
    name, arguments = function.text("name"), function.text("arguments")
    if not name:
        raise wrong(f"{place}.function.name", "is missing")
    function.end()
    told.ignore(frozenset({"index"}))
    told.end()
    return v1.ToolCall(id=id, name=name, arguments=arguments or "")


def _read_tools(told: Parameters, spec: v1.GenerationSpec) -> None:
    for at, tool in enumerate(told.list("tools")):
        spec.tools.append(_tool(tool, f"tools[{at}]"))
    choice = told.raw("tool_choice")
    if choice is None or (choice in ("auto", "none") and not spec.tools):
        return
    if not spec.tools:
        raise wrong("tool_choice", "goes with tools only")
    if isinstance(choice, dict):
        asked = Parameters(choice, "tool_choice")
        asked.only("type", "function", why="must be function")
        function = asked.within("function")
        name = function.text("name") if function is not None else None
        if not name:
            raise wrong("tool_choice.function.name", "is missing")
        asked.end()
        spec.tool_choice.name = name
    elif isinstance(choice, str) and choice in MODES:
        spec.tool_choice.mode = MODES[choice]
    else:
        raise wrong("tool_choice", f"must be one of {', '.join(MODES)}, or an object that names a function")


def _tool(tool: object, place: str) -> v1.Tool:
    told = Parameters(tool, place)
    told.only("type", "function", why="must be function")
    function = told.within("function")
    if function is None:
        raise wrong(f"{place}.function", "is missing")
    found = v1.Tool(name=function.text("name") or "", description=function.text("description") or "")
    parameters = function.raw("parameters")
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise wrong(f"{place}.function.parameters", "must be a JSON Schema")
        found.parameters_json_schema = _json(parameters)
    function.ignore(frozenset({"strict"}))
    function.end()
    told.end()
    return found


def _read_format(told: Parameters | None, spec: v1.GenerationSpec) -> None:
    if told is None:
        return
    match told.text("type"):
        case "text":
            pass
        case "json_object":
            spec.constraint.json_object = True
        case "json_schema":
            asked = told.within("json_schema")
            schema: Any = asked.raw("schema") if asked is not None else None
            if asked is None or not isinstance(schema, dict | bool):
                raise wrong("response_format.json_schema.schema", "must be a JSON Schema")
            asked.ignore(frozenset({"name", "description", "strict"}))  # every schema is held to
            asked.end()
            spec.constraint.json_schema = _json(schema)
        case _:
            raise wrong("response_format.type", "must be text, json_object or json_schema")
    told.end()


def _read_logprobs(told: Parameters, spec: v1.GenerationSpec) -> None:
    wanted, top = told.switch("logprobs"), told.integer("top_logprobs")
    if top is not None and not wanted:
        raise wrong("top_logprobs", "goes with logprobs: true only")
    if wanted:
        spec.logprobs.top = top or 0
        spec.logprobs.SetInParent()


def _read_prompt_cache(told: Parameters, spec: v1.GenerationSpec) -> None:
    if (key := told.text("prompt_cache_key")) is not None:
        spec.prompt_cache.key = key
    lifetime, place = told.text("prompt_cache_retention"), "prompt_cache_retention"
    if (options := told.within("prompt_cache_options")) is not None:
        options.only("mode", "implicit", "explicit", why="must be implicit or explicit")
        if (ttl := options.text("ttl")) is not None:
            lifetime, place = ttl, "prompt_cache_options.ttl"
        options.end()
    if lifetime is not None:
        if lifetime not in _LIFETIMES:
            raise wrong(place, f"must be one of {', '.join(_LIFETIMES)}")
        if (seconds := _LIFETIMES[lifetime]) is not None:
            spec.prompt_cache.ttl_s = seconds


def _json(schema: dict[str, Any] | bool) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
