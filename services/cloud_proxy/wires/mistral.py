"""Mistral's chat completions, fill-in-the-middle and embeddings: near OpenAI's, and strict where they differ.

Its server refuses a parameter that it does not know (422), so nothing of OpenAI's alone is sent.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.cloud_proxy.allowance import Allowance
from services.cloud_proxy.key import Key
from services.cloud_proxy.limits import REQUESTS, TOKENS
from services.cloud_proxy.parameters import ParameterName, require_none
from services.cloud_proxy.provider import Exchange, Prepared, Reader
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.mistral_answer import TABLE, WIRE, MistralAnswer, plain_error
from services.cloud_proxy.wires.openai import OpenAI, allowances_of, packed
from spillway import v1
from spillway.errors import ConstraintUnsupported, FieldViolation, RequestInvalid, SpillwayError
from spillway.openai import embedding
from spillway.openai.errors import understood
from spillway.openai.request import body_of

LACKING: frozenset[ParameterName] = frozenset({"logit_bias", "message_name", "min_p", "stop_tokens"})
LACKING_BETWEEN: frozenset[ParameterName] = LACKING | {
    "frequency_penalty",
    "logprobs",
    "n",
    "presence_penalty",
    "reasoning_effort",
    "repetition_penalty",
    "response_format",
    "tool_choice",
    "tools",
    "top_k",
}
"""What the request to fill in a middle has no place for."""
HEADER_LIMITS = {"req-minute": REQUESTS, "tokens-minute": TOKENS}
"""What `x-ratelimit-*-NAME` counts -> which limit of ours that is."""
ID_LENGTH = 9
_ID = re.compile(rf"[A-Za-z0-9]{{{ID_LENGTH}}}")
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Begun(Prepared):
    """A request whose answer the caller began: the server repeats the beginning before it goes on."""

    begun: str = ""


class Mistral:
    """Mistral's API."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._plain = OpenAI(settings)

    def prepare(self, spec: v1.GenerationSpec, model: str) -> Prepared:
        if spec.text.HasField("suffix"):
            return Prepared("fim/completions", packed(_between(spec, model)))
        require_none(spec, LACKING)
        body = _body(spec, model)
        begun = _begun(body["messages"][-1])
        _own_messages(body["messages"], spec)
        return Begun("chat/completions", packed(body), max(1, spec.sampling.n), begun=begun)

    def read(self, prepared: Prepared, exchange: Exchange) -> Reader:
        begun = prepared.begun if isinstance(prepared, Begun) else ""
        return MistralAnswer(self._settings.name, prepared.choices, exchange, begun=begun)

    def prepare_embedding(self, spec: v1.EmbeddingSpec, model: str) -> Prepared:
        for index, one in enumerate(spec.inputs):
            if one.HasField("tokens"):
                path, what = f"spec.inputs[{index}].tokens", "this provider is given text, not tokens"
                raise ConstraintUnsupported(f"{path}: {what}", fields=[FieldViolation(path, what)])
        body = embedding.body_of(spec, model)
        body["encoding_format"] = "float"  # of base64 it is not said which floats are packed
        if "dimensions" in body:
            body["output_dimension"] = body.pop("dimensions")
        return Prepared("embeddings", packed(body))

    def read_embedding(self, body: bytes, spec: v1.EmbeddingSpec, exchange: Exchange) -> v1.EmbedResponse:
        return self._plain.read_embedding(body, spec, exchange)

    def headers(self, key: Key | None) -> dict[str, str]:
        return self._plain.headers(key)

    def refusal(
        self, status: int, body: object, headers: Mapping[str, str], *, now: float, request_id: str
    ) -> SpillwayError:
        told = plain_error(body)
        return understood(self._settings.name, status, told, headers, now=now, request_id=request_id, table=TABLE)

    def request_id(self, headers: Mapping[str, str]) -> str:
        return headers.get("mistral-correlation-id", "")

    def allowances(self, headers: Mapping[str, str], *, now: float) -> tuple[Allowance, ...]:
        return tuple(allowances_of(headers, HEADER_LIMITS))

    def models_path(self) -> str:
        return self._plain.models_path()

    def read_models(self, body: bytes) -> list[str]:
        return self._plain.read_models(body)

    def __repr__(self) -> str:
        return f"<Mistral {self._settings.name}>"


def own_id(id: str) -> str:
    """Return the id of a tool call as Mistral takes it: nine letters and digits.

    One of another shape, as other providers make them, always becomes the same one.
    """
    if _ID.fullmatch(id):
        return id
    number = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")
    letters = []
    for _ in range(ID_LENGTH):
        number, at = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[at])
    return "".join(letters)


def _body(spec: v1.GenerationSpec, model: str) -> dict[str, Any]:
    """The request's body in OpenAI's words, with Mistral's names of parameters."""
    body = body_of(spec, model, max_tokens_field="max_tokens", extended_sampling=True, prefill="prefix")
    body.pop("stream_options", None)  # usage comes with the last chunk, unasked
    if "seed" in body:
        body["random_seed"] = body.pop("seed")
    if body.get("tool_choice") == "required":
        body["tool_choice"] = "any"  # every version of the server knows this word
    if spec.prompt_cache.key:
        body["prompt_cache_key"] = spec.prompt_cache.key
    return body


def _between(spec: v1.GenerationSpec, model: str) -> dict[str, Any]:
    require_none(spec, LACKING_BETWEEN)
    begun = v1.GenerationSpec()
    begun.CopyFrom(spec)
    begun.text.ClearField("suffix")
    body = _body(begun, model)
    del body["messages"]
    return {**body, "prompt": spec.text.text, "suffix": spec.text.suffix}


def _begun(last: dict[str, Any]) -> str:
    """Mark the `last` message as the answer's beginning if it is one; return its text."""
    if last["role"] != "assistant" or last.get("tool_calls"):
        return ""
    last["prefix"] = True
    content = last["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


def _own_messages(messages: list[dict[str, Any]], spec: v1.GenerationSpec) -> None:
    """Put `messages` into Mistral's words: ids of tool calls, images, and the reasoning it signed."""
    reasoned = _reasoned(spec)
    for message in messages:
        if "tool_call_id" in message:
            message["tool_call_id"] = own_id(message["tool_call_id"])
        for call in message.get("tool_calls") or ():
            call["id"] = own_id(call["id"])
        content = message["content"]
        for part in content if isinstance(content, list) else ():
            if part["type"] == "image_url":
                part["image_url"] = part["image_url"]["url"]
        if message["role"] == "assistant" and (thoughts := next(reasoned, None)):
            said = [{"type": "text", "text": content}] if isinstance(content, str) and content else content or []
            message["content"] = [*thoughts, *said]


def _reasoned(spec: v1.GenerationSpec) -> Iterator[list[object]]:
    """What Mistral signed of each message of the assistant's, in their order."""
    for at, message in enumerate(spec.chat.messages):
        if message.role == v1.ROLE_ASSISTANT:
            yield [
                thought
                for number, part in enumerate(message.parts)
                if part.provider_state.wire == WIRE
                for thought in _thoughts(part.provider_state.state, f"spec.chat.messages[{at}].parts[{number}]")
            ]


def _thoughts(state: bytes, place: str) -> list[object]:
    try:
        thoughts = json.loads(state)
    except (ValueError, RecursionError):
        thoughts = None
    if not isinstance(thoughts, list):
        path, what = f"{place}.provider_state.state", "is not what came with an answer of Mistral's"
        raise RequestInvalid(f"{path}: {what}", fields=[FieldViolation(path, what)])
    return thoughts
