"""Mistral's answers and errors, in OpenAI's words and read as those."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from services.cloud_proxy.provider import Exchange
from spillway import errors, v1
from spillway.openai.answer import Answer
from spillway.openai.errors import PROVIDERS, Table, row

WIRE = "mistral"
"""Whose `provider_state` is read back."""
TABLE = Table(
    (
        row(errors.TargetModelMissing, "invalid_model", "unknown_model", "1500"),
        row(
            errors.ProviderRateLimited,
            "rate_limited",
            "rate_limit_error",
            "service_tier_capacity_exceeded",
            "1300",
            "3505",
        ),
        *PROVIDERS.rows,
    ),
    otherwise=PROVIDERS.otherwise,
)
"""By `type` and `code` of a body that says `"object": "error"`, else as any provider's."""
FINISHES = {"model_length": "length"}
"""Reasons of its own. `error` is no end of a whole answer."""


class MistralAnswer:
    """One answer on its way.

    `begun` is what the caller began the answer with: the server repeats it, and it is left out.
    """

    def __init__(self, provider: str, choices: int, exchange: Exchange, *, begun: str = "") -> None:
        self._answer = Answer(provider, choices, exchange, table=TABLE, shape=self._plain)
        self._begun = begun
        self._repeating = dict.fromkeys(range(choices), begun)
        self._thoughts: dict[int, list[str]] = {}
        self._signatures: dict[int, str] = {}
        self.done = False

    def take(self, events: Iterable[bytes]) -> list[v1.Delta]:
        deltas = self._answer.take(events)
        self.done = self._answer.done
        return self._signed(deltas)

    def whole(self, body: bytes) -> list[v1.Delta]:
        deltas = self._answer.whole(body)
        self.done = True
        return self._signed(deltas)

    def check(self) -> None:
        self._answer.check()

    def _plain(self, told: Mapping[str, Any]) -> Mapping[str, Any]:
        if told.get("object") == "error":
            status = told.get("raw_status_code")
            return {"error": {**plain_error(told), **({"code": status} if isinstance(status, int) else {})}}
        for choice in told.get("choices") or ():
            said = choice.get("delta") or choice.get("message") or {}
            self._plain_words(choice, said)
            for call in said.get("tool_calls") or ():
                function = call["function"]
                if isinstance(function.get("arguments"), dict):
                    function["arguments"] = json.dumps(function["arguments"])
            if choice.get("finish_reason") in FINISHES:
                choice["finish_reason"] = FINISHES[choice["finish_reason"]]
        return told

    def _plain_words(self, choice: Mapping[str, Any], said: dict[str, Any]) -> None:
        index, content = choice.get("index", 0), said.get("content")
        if isinstance(content, list):
            content = "".join(chunk["text"] for chunk in content if chunk["type"] == "text")
            thought = [chunk for chunk in said["content"] if chunk["type"] == "thinking"]
            said["reasoning_content"] = "".join(self._thought(index, chunk) for chunk in thought)
        said["content"] = self._new(index, content or "", over=bool(choice.get("finish_reason")))

    def _thought(self, index: int, chunk: Mapping[str, Any]) -> str:
        """The text of a thinking chunk; references within it have none."""
        text = "".join(part["text"] for part in chunk["thinking"] if part["type"] == "text")
        self._thoughts.setdefault(index, []).append(text)
        if signature := chunk.get("signature"):
            self._signatures[index] = signature
        return text

    def _new(self, index: int, text: str, *, over: bool) -> str:
        """What of `text` is not the beginning repeated. What may yet be that is held back, until it is `over`."""
        left = self._repeating.get(index, "")
        if not left:
            return text
        if text.startswith(left):
            self._repeating[index] = ""
            return text[len(left) :]
        if left.startswith(text) and not over:
            self._repeating[index] = left[len(text) :]
            return ""
        self._repeating[index] = ""
        return self._begun[: len(self._begun) - len(left)] + text

    def _signed(self, deltas: list[v1.Delta]) -> list[v1.Delta]:
        """`deltas` with the reasoning that was signed, to be shown again when the conversation goes on."""
        for delta in deltas:
            if (delta.text or delta.tool_calls) and (signature := self._signatures.pop(delta.choice, "")):
                thinking = [{"type": "text", "text": "".join(self._thoughts[delta.choice])}]
                state = [{"type": "thinking", "thinking": thinking, "signature": signature}]
                delta.provider_state.CopyFrom(v1.ProviderState(wire=WIRE, state=json.dumps(state).encode()))
        return deltas


def plain_error(body: object) -> dict[str, Any]:
    """Return an error's body as OpenAI would have it.

    Mistral says `{"detail": TEXT}`, `{"detail": [WHAT IS WRONG WHERE]}`, the latter also as its `message`, or a
    `message` with `type` and `code`.
    """
    told = dict(body) if isinstance(body, Mapping) else {}
    message = told.get("message")
    detail = told.get("detail") or (message.get("detail") if isinstance(message, Mapping) else None)
    if isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        wrong = detail[0]
        place = wrong.get("loc")
        path = [str(step) for step in place if step != "body"] if isinstance(place, list) else []
        return {"code": wrong.get("type"), "param": ".".join(path), "message": wrong.get("msg")}
    return {**told, "message": detail} if isinstance(detail, str) else told
