"""A `GenerationSpec` as Gemini's generateContent takes it."""

from __future__ import annotations

import base64
import json
import mimetypes
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final
from urllib.parse import quote, urlsplit

from services.cloud_proxy.wires.gemini_state import WIRE, Part, signed, stand_in
from spillway import v1
from spillway.errors import ConstraintUnsupported, FieldViolation, RequestInvalid
from spillway.openai.request import extra_of, is_guided, parsed

MADE = "call_gemini_"
"""How the ids begin that we give to calls that came without one."""
MODES = {
    v1.TOOL_CHOICE_MODE_AUTO: "AUTO",
    v1.TOOL_CHOICE_MODE_NONE: "NONE",
    v1.TOOL_CHOICE_MODE_REQUIRED: "ANY",
}
SAMPLING = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "seed": "seed",
    "max_tokens": "maxOutputTokens",
    "n": "candidateCount",
}
DEFAULTS = {"top_k": (0, -1), "n": (1,), "min_p": (0.0,), "repetition_penalty": (1.0,), "min_tokens": (0,)}
"""Values that ask for nothing: not sent, and no reason to refuse."""
MAX_STOPS: Final = 5
LEVELS = {v1.REASONING_EFFORT_LOW: "LOW", v1.REASONING_EFFORT_MEDIUM: "MEDIUM", v1.REASONING_EFFORT_HIGH: "HIGH"}
BUDGETS = {v1.REASONING_EFFORT_LOW: 1024, v1.REASONING_EFFORT_MEDIUM: 8192, v1.REASONING_EFFORT_HIGH: 24576}
"""Tokens: those that Google's own OpenAI-compatible endpoint takes for these words."""


class Thinking(Enum):
    """How a model is told how much to think."""

    NEVER = re.compile(r"gemini-1|gemini-2\.0|gemma-")
    BUDGET = re.compile(r"gemini-2\.5")
    LEVEL = re.compile("")
    """Gemini 3 and all since; the aliases `-latest` too."""

    @classmethod
    def of(cls, model: str) -> Thinking:
        return next(kind for kind in cls if kind.value.match(model.removeprefix("models/")))


def resource_of(model: str) -> str:
    """Return the model's resource name, fit for a URL."""
    return f"models/{quote(model.removeprefix('models/'), safe='')}"


def body_of(spec: v1.GenerationSpec, model: str, *, prefill: bool) -> dict[str, Any]:
    """Return the request's body; `prefill`: an answer that was begun can be continued.

    Raises ConstraintUnsupported or RequestInvalid naming the field that does not fit.
    """
    for path, asked, why in _refused(spec, prefill=prefill):
        if asked:
            raise _unsupported(path, why)
    body = extra_of(spec)
    told = _Conversation(model)
    if spec.HasField("text"):
        told.contents.append({"role": "user", "parts": [{"text": spec.text.text}]})
    for at, message in enumerate(spec.chat.messages):
        told.add(message, f"spec.chat.messages[{at}]")
    if spec.HasField("continuation"):
        told.begin(spec.continuation.text)
    if not told.contents:
        raise _invalid("spec.chat.messages", "needs a message of the user: a system message alone asks nothing")
    body["contents"] = told.contents
    if told.system:
        body["systemInstruction"] = {"parts": told.system}
    config = {**_extra(body, "generationConfig"), **dict(_config(spec, model))}
    if config:
        body["generationConfig"] = config
    if spec.tools:
        declared = [_tool(tool, f"spec.tools[{at}]") for at, tool in enumerate(spec.tools)]
        others = body.get("tools", [])
        body["tools"] = [*(others if isinstance(others, list) else [others]), {"functionDeclarations": declared}]
    if spec.HasField("tool_choice") and (calling := _calling(spec)):
        body["toolConfig"] = {**_extra(body, "toolConfig"), "functionCallingConfig": calling}
    return body


def _refused(spec: v1.GenerationSpec, *, prefill: bool) -> Iterator[tuple[str, bool, str]]:
    """What Gemini has no place for: the field, whether it is asked for, and why it cannot be had."""
    going_on = spec.HasField("continuation")
    constraint = spec.constraint.WhichOneof("constraint") if is_guided(spec) else None
    yield "spec.adapter", bool(spec.adapter), "a provider serves no adapters of ours"
    yield "spec.tokens", spec.HasField("tokens"), "Gemini takes text, not token ids"
    yield "spec.text.suffix", spec.text.HasField("suffix"), "Gemini fills in no middle"
    yield "spec.continuation.token_ids", bool(spec.continuation.token_ids), "Gemini takes text, not token ids"
    yield "spec.continuation.text", going_on and not (prefill and spec.chat.messages), "begun answers do not go on here"
    yield "spec.constraint", going_on and spec.HasField("constraint"), "a constrained answer can only be begun anew"
    yield f"spec.constraint.{constraint}", constraint in ("regex", "grammar"), "Gemini knows JSON and choices alone"
    yield "spec.logprobs.prompt", spec.logprobs.HasField("prompt"), "Gemini tells nothing of the prompt's tokens"
    yield "spec.stop.token_ids", bool(spec.stop.token_ids), "Gemini stops at strings alone"
    yield "spec.stop.strings", len(spec.stop.strings) > MAX_STOPS, f"Gemini takes {MAX_STOPS} at most"
    yield "spec.stop.include_stop", spec.stop.include_stop, "Gemini leaves the stop string out"
    yield "spec.stop.ignore_eos", spec.stop.ignore_eos, "Gemini has no such parameter"
    yield "spec.sampling.seed", not -(2**31) <= spec.sampling.seed < 2**31, "Gemini takes seeds of 32 bits"


class _Conversation:
    """The messages, as Gemini's contents."""

    def __init__(self, model: str) -> None:
        self.contents: list[dict[str, Any]] = []
        self.system: list[Part] = []
        self._resource = resource_of(model)
        self._levels = Thinking.of(model) is Thinking.LEVEL
        self._names: dict[str, str] = {}

    def add(self, message: v1.Message, place: str) -> None:
        if message.name and message.role != v1.ROLE_TOOL:  # a tool is known by the call it answers
            raise _unsupported(f"{place}.name", "Gemini knows no names of speakers")
        match message.role:
            case v1.ROLE_SYSTEM:
                self.system.extend(self._told(message, place, "text"))
            case v1.ROLE_ASSISTANT:
                if parts := self._said(message, place):
                    self.contents.append({"role": "model", "parts": parts})
            case v1.ROLE_TOOL:
                parts = self._told(message, place, "tool_result")
                if self.contents and "functionResponse" in self.contents[-1]["parts"][-1]:
                    self.contents[-1]["parts"].extend(parts)  # Gemini wants all results of a step in one content
                else:
                    self.contents.append({"role": "user", "parts": parts})
            case _:
                self.contents.append({"role": "user", "parts": self._told(message, place, "text", "image")})

    def begin(self, text: str) -> None:
        """Put the beginning of the answer behind the messages, into the model's last content if the caller began it."""
        if not text:
            raise _invalid("spec.continuation.text", "is empty")
        if self.contents and self.contents[-1]["role"] == "model":
            self.contents[-1]["parts"].append({"text": text})
        else:
            self.contents.append({"role": "model", "parts": [{"text": text}]})

    def _told(self, message: v1.Message, place: str, *kinds: str) -> list[Part]:
        """The parts, each of one of `kinds`. Empty text says nothing, and Gemini refuses it."""
        told = (self._part(part, f"{place}.parts[{at}]", kinds) for at, part in enumerate(message.parts))
        return [part for part in told if part.get("text") != ""]

    def _said(self, message: v1.Message, place: str) -> list[Part]:
        """The parts of an answer, signed where it was ours."""
        kinds = ("text", "tool_call")
        told = [(at, part) for at, part in enumerate(message.parts) if part.WhichOneof("part") != "provider_state"]
        parts = [self._part(part, f"{place}.parts[{at}]", kinds) for at, part in told]
        for at, part in enumerate(message.parts):
            if part.provider_state.wire != WIRE:
                continue
            text = "".join(one.get("text", "") for one in parts)
            calls = [one for one in parts if "functionCall" in one]
            try:
                parts = signed(part.provider_state.state, self._resource, text, calls) or parts
            except (ValueError, TypeError, KeyError, RecursionError):
                raise _invalid(f"{place}.parts[{at}].provider_state", "was not made by this wire format") from None
            break
        parts = [one for one in parts if one.get("text") != "" or "thoughtSignature" in one]
        if self._levels:
            stand_in(parts)
        return parts

    def _part(self, part: v1.Part, place: str, kinds: tuple[str, ...]) -> Part:
        kind = part.WhichOneof("part")
        if kind not in kinds:
            raise _invalid(place, f"this message holds {' and '.join(kinds)} alone, not {kind}")
        match kind:
            case "image":
                return _image(part.image, f"{place}.image")
            case "tool_call":
                return {"functionCall": self._call(part.tool_call, f"{place}.tool_call")}
            case "tool_result":
                return {"functionResponse": self._result(part.tool_result, f"{place}.tool_result")}
            case _:
                return {"text": part.text}

    def _call(self, call: v1.ToolCall, place: str) -> dict[str, Any]:
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise _invalid(f"{place}.arguments", "is no JSON object")
        self._names[call.id] = call.name
        return {**self._id(call.id), "name": call.name, "args": arguments}

    def _result(self, result: v1.ToolResult, place: str) -> dict[str, Any]:
        name = self._names.get(result.tool_call_id)
        if name is None:
            raise _invalid(f"{place}.tool_call_id", "is of no call before it, and Gemini asks for the call's name")
        response = {"error" if result.is_error else "output": result.content}
        return {**self._id(result.tool_call_id), "name": name, "response": response}

    def _id(self, id: str) -> dict[str, str]:
        """Gemini 3 gives calls ids and wants them back; before it there were none, and the field was refused."""
        return {"id": id} if self._levels and id and not id.startswith(MADE) else {}


def _image(image: v1.Image, place: str) -> Part:
    if image.WhichOneof("source") == "data":
        if not image.data or not image.mime_type:
            raise _invalid(place, "needs data with its mime_type")
        return _inline(image.mime_type, base64.b64encode(image.data).decode())
    head, _, data = image.url.partition(",")
    if head.startswith("data:") and head.endswith(";base64"):
        return _inline(image.mime_type or head.removeprefix("data:").removesuffix(";base64"), data)
    parts = urlsplit(image.url)
    if parts.scheme not in ("https", "gs"):
        raise _unsupported(f"{place}.url", "Gemini fetches https:// and gs:// alone")
    kind = image.mime_type or mimetypes.guess_type(parts.path)[0]
    if kind is None and "/files/" not in parts.path:  # of a file uploaded to it Gemini knows the type
        raise _invalid(f"{place}.mime_type", "is missing, and the URL does not tell it")
    return {"fileData": {"fileUri": image.url, **({"mimeType": kind} if kind else {})}}


def _inline(kind: str, data: str) -> Part:
    return {"inlineData": {"mimeType": kind, "data": data}}


def _config(spec: v1.GenerationSpec, model: str) -> Iterator[tuple[str, Any]]:
    for declared, value in spec.sampling.ListFields():
        name = declared.name
        if name in DEFAULTS and value in DEFAULTS[name]:
            continue
        if name not in SAMPLING:
            raise _unsupported(f"spec.sampling.{name}", "Gemini has no such parameter")
        # A 32-bit float as it was written: 0.7, not 0.699999988079071.
        yield SAMPLING[name], float(f"{value:.7g}") if isinstance(value, float) else value
    if spec.stop.strings:
        yield "stopSequences", list(spec.stop.strings)
    if is_guided(spec):
        yield from _form(spec.constraint)
    if spec.HasField("logprobs"):
        yield "responseLogprobs", True
        if spec.logprobs.top:
            yield "logprobs", spec.logprobs.top
    if thinking := _thinking(spec.reasoning_effort, model):
        yield "thinkingConfig", thinking


def _form(constraint: v1.OutputConstraint) -> Iterator[tuple[str, Any]]:
    match constraint.WhichOneof("constraint"):
        case "choices":
            yield "responseMimeType", "text/x.enum"
            yield "responseSchema", {"type": "STRING", "enum": list(constraint.choices.values)}
        case "json_object":
            yield "responseMimeType", "application/json"
        case "json_schema":
            yield "responseMimeType", "application/json"
            yield "responseJsonSchema", parsed(constraint.json_schema, "spec.constraint.json_schema")


def _thinking(effort: v1.ReasoningEffort.ValueType, model: str) -> dict[str, Any]:
    """How much to think; nothing is said where nothing is asked. The thoughts are shown to who asks for them."""
    kind = Thinking.of(model)
    if effort == v1.REASONING_EFFORT_UNSPECIFIED or (effort == v1.REASONING_EFFORT_NONE and kind is Thinking.NEVER):
        return {}
    if effort == v1.REASONING_EFFORT_NONE and kind is Thinking.BUDGET and "-pro" not in model:
        return {"thinkingBudget": 0}
    if effort == v1.REASONING_EFFORT_NONE or kind is Thinking.NEVER:
        can = "cannot think" if kind is Thinking.NEVER else "cannot be kept from thinking"
        raise _unsupported("spec.reasoning_effort", f"{model} {can}")
    amount = {"thinkingBudget": BUDGETS[effort]} if kind is Thinking.BUDGET else {"thinkingLevel": LEVELS[effort]}
    return {**amount, "includeThoughts": True}


def _tool(tool: v1.Tool, place: str) -> dict[str, Any]:
    declared: dict[str, Any] = {"name": tool.name}
    if tool.description:
        declared["description"] = tool.description
    if tool.parameters_json_schema:
        path = f"{place}.parameters_json_schema"
        declared["parametersJsonSchema"] = parsed(tool.parameters_json_schema, path)
    return declared


def _calling(spec: v1.GenerationSpec) -> dict[str, Any]:
    """Which tools may be called. Gemini refuses to be told so where there are none."""
    choice = spec.tool_choice
    if choice.WhichOneof("choice") == "name":
        return {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    if not spec.tools and choice.mode == v1.TOOL_CHOICE_MODE_REQUIRED:
        raise _invalid("spec.tool_choice.mode", "asks for a call, and spec.tools is empty")
    return {"mode": MODES[choice.mode]} if spec.tools and choice.mode in MODES else {}


def _extra(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What `extra` says of `name`."""
    told = body.get(name, {})
    if not isinstance(told, Mapping):
        raise _invalid(f"spec.extra.{name}", "is no object")
    return told


def _unsupported(path: str, why: str) -> ConstraintUnsupported:
    return ConstraintUnsupported(f"{path}: {why}", fields=[FieldViolation(path, why)])


def _invalid(path: str, why: str) -> RequestInvalid:
    return RequestInvalid(f"{path}: {why}", fields=[FieldViolation(path, why)])
