"""Gemini's generateContent as it is on the wire: what a request may hold, and the bodies of an answer."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spillway.testing.openai_faults import Status
from spillway.testing.openai_wire import Reply
from spillway.testing.vectors import vector

FIELDS = frozenset(
    {
        "contents",
        "systemInstruction",
        "generationConfig",
        "tools",
        "toolConfig",
        "safetySettings",
        "cachedContent",
        "labels",
        "serviceTier",
        "store",
    }
)
CONFIG = frozenset(
    {
        "temperature",
        "topP",
        "topK",
        "candidateCount",
        "maxOutputTokens",
        "stopSequences",
        "responseLogprobs",
        "logprobs",
        "presencePenalty",
        "frequencyPenalty",
        "seed",
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "responseModalities",
        "mediaResolution",
        "thinkingConfig",
    }
)
DATA = frozenset({"text", "inlineData", "fileData", "functionCall", "functionResponse"})
PART = DATA | {"thought", "thoughtSignature"}
EMBEDDING = frozenset({"model", "content", "taskType", "title", "outputDimensionality"})
"""What is understood; Google refuses any other name."""
FREE = frozenset({"args", "response", "parametersJsonSchema", "responseJsonSchema", "labels"})
"""Fields whose content has names of its own."""
FORMS = ("text/plain", "application/json", "text/x.enum")
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
FINISHES = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS"}
SKIP = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
"""What stands in for the signature of a call that another model made."""
RPC = "type.googleapis.com/google.rpc."
MAX_DIMENSIONS = 8


def camel(told: Any) -> Any:
    """`told` with its fields in camel case: Google takes `snake_case` too, as its messages are defined."""
    if isinstance(told, list):
        return [camel(one) for one in told]
    if not isinstance(told, Mapping):
        return told
    names = {name: re.sub(r"_([a-z])", lambda found: found[1].upper(), name) for name in told}
    return {names[name]: one if names[name] in FREE else camel(one) for name, one in told.items()}


def parts_of(content: Mapping[str, Any], kind: str) -> list[Any]:
    """What the parts of `content` hold of `kind`."""
    return [part[kind] for part in content.get("parts", ()) if kind in part]


def prompt_text(body: Mapping[str, Any]) -> str:
    """The text of the last content of the user's that has any."""
    said = (parts_of(content, "text") for content in reversed(body["contents"]) if content.get("role") != "model")
    return " ".join(next((texts for texts in said if texts), []))


def declared(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The functions of a request."""
    return [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations") or ()]


def signature_of(model: str, place: str) -> str:
    """What the simulated `model` signs a part with."""
    return base64.b64encode(f"signed by {model}: {place}".encode()).decode()


def wrong(body: object, model: str, *, signed: bool, takes_prefill: bool) -> Status | None:
    """What Google would say against `body`, if anything; `signed`: as Gemini 3 does."""
    if not isinstance(body, Mapping):
        return Status(400, message="Invalid JSON payload received. Expected an object.")
    config = body.get("generationConfig") or {}
    unknown = _unknown(body, FIELDS, "") or _unknown(config, CONFIG, "generation_config")
    return unknown or _wrong_config(body, config) or _wrong_contents(body, model, signed, takes_prefill)


def _unknown(told: Mapping[str, Any], known: frozenset[str], place: str) -> Status | None:
    if not (names := sorted(set(told) - known)):
        return None
    where = f" at '{place}'" if place else ""
    said = f'Invalid JSON payload received. Unknown name "{names[0]}"{where}: Cannot find field.'
    return Status(400, message=said, param=place or names[0])


def _wrong_config(body: Mapping[str, Any], config: Mapping[str, Any]) -> Status | None:
    thinking = config.get("thinkingConfig") or {}
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    for bad, said in (
        (config.get("responseMimeType", FORMS[0]) not in FORMS, "Unsupported response mime type."),
        ("responseSchema" in config and "responseJsonSchema" in config, "Only one response schema may be set."),
        (len(config.get("stopSequences") or ()) > 5, "Only 5 stop sequences are allowed."),
        (not 1 <= config.get("candidateCount", 1) <= 8, "candidateCount must be between 1 and 8."),
        ("logprobs" in config and not config.get("responseLogprobs"), "logprobs needs responseLogprobs."),
        (len({"thinkingBudget", "thinkingLevel"} & set(thinking)) > 1, "Set thinking_budget or thinking_level."),
        (calling and not declared(body), "Function calling config is set without function_declarations."),
        ("allowedFunctionNames" in calling and calling.get("mode") != "ANY", "Allowed names need mode ANY."),
    ):
        if bad:
            return Status(400, message=said, param="generation_config")
    return None


def _wrong_contents(body: Mapping[str, Any], model: str, signed: bool, takes_prefill: bool) -> Status | None:
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        return Status(400, message="contents are required", param="contents")
    for at, content in enumerate([*contents, body.get("systemInstruction") or contents[0]]):
        place = f"contents[{at}]"
        if content.get("role", "user") not in ("user", "model") or not content.get("parts"):
            return Status(400, message="Please use a valid role and at least one part.", param=place)
        for part in content["parts"]:
            if refused := _unknown(part, PART, f"{place}.parts"):
                return refused
            if len(DATA & set(part)) != 1:
                return Status(400, message="A part must have exactly one initialized field.", param=place)
    if contents[-1].get("role") == "model" and not takes_prefill:
        return Status(400, message="Requests ending with a model turn are not supported.", param="contents")
    return _unanswered(contents) or (_unsigned(contents, model) if signed else None)


def _unanswered(contents: Sequence[Mapping[str, Any]]) -> Status | None:
    """Every call has its result in the very next content, and no result is without its call."""
    before: list[Any] = []
    for content in contents:
        results = parts_of(content, "functionResponse")
        if [call["name"] for call in before] != [result.get("name") for result in results]:
            said = "Please ensure that the function response parts are those of the function call parts."
            return Status(400, message=said, param="contents")
        if [call.get("id") for call in before] != [result.get("id") for result in results]:
            return Status(400, message="functionResponse.id does not match functionCall.id.", param="contents")
        before = parts_of(content, "functionCall") if content.get("role") == "model" else []
    return None


def _unsigned(contents: Sequence[Mapping[str, Any]], model: str) -> Status | None:
    """The first call of every step since the user last spoke has its signature, and it is of this model."""
    for content in reversed(contents):
        if content.get("role") != "model" and not parts_of(content, "functionResponse"):
            return None
        first = next((part for part in content["parts"] if "functionCall" in part), None)
        if first is None:
            continue
        signature = first.get("thoughtSignature")
        if signature is None:
            return Status(400, message="Function call is missing a thought_signature in functionCall parts.")
        if signature not in SKIP and not base64.b64decode(signature).startswith(f"signed by {model}:".encode()):
            return Status(400, message="Corrupted thought signature.")
    return None


def wrong_embedding(body: object) -> Status | None:
    """What Google would say against `body` at batchEmbedContents, if anything."""
    requests = body.get("requests") if isinstance(body, Mapping) else None
    if not isinstance(requests, list) or not requests:
        return Status(400, message="requests are required", param="requests")
    for at, one in enumerate(requests):
        if refused := _unknown(one, EMBEDDING, f"requests[{at}]"):
            return refused
        if not all(parts_of(one.get("content") or {}, "text")) or not 1 <= one.get("outputDimensionality", 1) <= 8:
            return Status(400, message="content is required", param=f"requests[{at}]")
    return None


def embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer of batchEmbedContents."""
    texts = [" ".join(parts_of(one["content"], "text")) for one in body["requests"]]
    lengths = [one.get("outputDimensionality", MAX_DIMENSIONS) for one in body["requests"]]
    names = [one["model"].removeprefix("models/") for one in body["requests"]]
    vectors = [vector(*told) for told in zip(names, texts, lengths, strict=True)]
    count = sum(len(text.split()) for text in texts)
    return {"embeddings": [{"values": one} for one in vectors], "usageMetadata": {"promptTokenCount": count}}


def error_body(status: Status) -> dict[str, Any]:
    """The body of an error, with the details that Google adds: a reason for codes in capitals, fields, waits."""
    details: list[dict[str, Any]] = []
    if status.code and status.code.isupper():
        details.append({"@type": f"{RPC}ErrorInfo", "reason": status.code, "domain": "googleapis.com"})
    if status.param:
        violation = {"field": status.param, "description": status.message}
        details.append({"@type": f"{RPC}BadRequest", "fieldViolations": [violation]})
    if wait := status.headers.get("retry-after"):
        details.append({"@type": f"{RPC}RetryInfo", "retryDelay": f"{wait}s"})
    told: dict[str, Any] = {"code": status.status, "message": status.message}
    told["status"] = STATUSES.get(status.status, "UNKNOWN")
    return {"error": {**told, "details": details} if details else told}


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of the prompt, as the simulator counts: words."""
    contents = [*body["contents"], body.get("systemInstruction") or {}]
    return sum(len(str(text).split()) for content in contents for text in parts_of(content, "text"))


def chunks(
    body: Mapping[str, Any], replies: Sequence[Reply], *, model: str, thought: str, signs: bool
) -> Iterator[dict[str, Any]]:
    """The candidate of every chunk in the order of a stream: a thought, then words or calls; the last one ends it."""
    logprobs = (body.get("generationConfig") or {}).get("responseLogprobs")
    top = (body.get("generationConfig") or {}).get("logprobs", 0)
    for reply in replies:
        if thought:
            yield _candidate(reply, {"text": thought, "thought": True})
        for token in reply.tokens:
            candidate = _candidate(reply, {"text": token})
            if logprobs:
                candidate["logprobsResult"] = _logprobs(token, top)
            yield candidate
        for at, call in enumerate(reply.calls):
            part: dict[str, Any] = {"functionCall": {"name": call.name, "args": json.loads(call.arguments)}}
            if signs:
                part["functionCall"]["id"] = f"simulated-{reply.index}-{at}"
            if signs and at == 0:
                part["thoughtSignature"] = signature_of(model, "call")
            yield _candidate(reply, part)
        last: dict[str, Any] = {"text": ""}
        if signs and not reply.calls:
            last["thoughtSignature"] = signature_of(model, "text")
        yield {**_candidate(reply, last), "finishReason": FINISHES[reply.finish]}


def _candidate(reply: Reply, part: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": {"parts": [part], "role": "model"}, "index": reply.index}


def _logprobs(token: str, top: int) -> dict[str, Any]:
    ranked = [
        {"token": f"{token}{rank or ''}", "tokenId": rank + 1, "logProbability": -0.5 - rank} for rank in range(top)
    ]
    chosen = {"token": token, "tokenId": 1, "logProbability": -0.5}
    return {"chosenCandidates": [chosen], "topCandidates": [{"candidates": ranked}]}


def joined(candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The candidates of all chunks of one choice as one, as a whole answer has it: unsigned text in one piece."""
    parts: list[dict[str, Any]] = []
    for part in (part for candidate in candidates for part in candidate["content"]["parts"]):
        if parts and set(part) == set(parts[-1]) == {"text"}:
            parts[-1]["text"] += part["text"]
        elif part != {"text": ""}:
            parts.append(dict(part))
    return {**candidates[-1], "content": {"parts": parts, "role": "model"}}


def event(told: object) -> bytes:
    """One server-sent event, with the line ends that Google writes."""
    return b"data: " + json.dumps(told, ensure_ascii=False).encode() + b"\r\n\r\n"
