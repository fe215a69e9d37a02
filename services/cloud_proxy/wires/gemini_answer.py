"""The chunks of Gemini's generateContent, read into deltas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jiter

from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.wires.gemini_refusal import refusal_of
from services.cloud_proxy.wires.gemini_request import MADE
from services.cloud_proxy.wires.gemini_state import Keepsake
from spillway import v1
from spillway.errors import ContentFiltered, ProviderError, SpillwayError
from spillway.openai.answer import FOREIGN

FINISHES: Mapping[str, v1.FinishReason.ValueType] = {
    "STOP": v1.FINISH_REASON_STOP,
    "MAX_TOKENS": v1.FINISH_REASON_LENGTH,
    "CONTINUATION": v1.FINISH_REASON_LENGTH,
    **dict.fromkeys(
        (
            "SAFETY",
            "RECITATION",
            "LANGUAGE",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "MODEL_ARMOR",
            "ESCALATION",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
        ),
        v1.FINISH_REASON_CONTENT_FILTER,
    ),
}
"""Any other reason (`MALFORMED_FUNCTION_CALL`, `OTHER`, one not yet known) is no end of a whole answer."""


@dataclass(slots=True)
class _Candidate:
    """One choice: what is new of it, and what must come back of it."""

    new: v1.Delta
    calls: int = 0
    keepsake: Keepsake = field(default_factory=Keepsake)
    finish: v1.ChoiceFinish | None = None


class GeminiAnswer:
    """One answer on its way. Everything read at once is merged into one delta per choice.

    `resource` is the model that was asked, as Gemini names it. The stream is over where the body ends: Gemini marks no
    end. An answer is whole if every choice has its finish reason.
    """

    def __init__(self, provider: str, choices: int, resource: str, exchange: Exchange) -> None:
        self._provider = provider
        self._resource = resource
        self._exchange = exchange
        self._candidates = [_Candidate(v1.Delta(choice=index)) for index in range(choices)]
        self.done = False

    def take(self, events: Iterable[bytes]) -> list[v1.Delta]:
        """Read the data of `events`. Raises what an error or a block among them means, and ProviderError."""
        try:
            for data in events:
                self._read(jiter.from_json(data))
            return self._new()
        except FOREIGN as error:
            raise self._garbled(error) from None

    def whole(self, body: bytes) -> list[v1.Delta]:
        """Read an answer that came in one piece: one response, or the list of them where `alt=sse` is not known."""
        try:
            told = jiter.from_json(body)
            for chunk in told if isinstance(told, list) else [told]:
                self._read(chunk)
            self.done = True
            return self._new()
        except FOREIGN as error:
            raise self._garbled(error) from None

    def check(self) -> None:
        """Raise unless the whole answer is there; else tell the exchange how it ended."""
        finishes = [candidate.finish for candidate in self._candidates if candidate.finish is not None]
        if len(finishes) < len(self._candidates):
            raise self._broken("broke the answer off")
        if {finish.reason for finish in finishes} == {
            v1.FINISH_REASON_CONTENT_FILTER
        } and not self._exchange.said_bytes:
            raise ContentFiltered(f"{self._provider} refused to answer", resource=self._provider)
        self._exchange.finishes = finishes

    def _read(self, chunk: Mapping[str, Any]) -> None:
        if error := chunk.get("error"):
            raise self._said(error)
        self._about(chunk)
        if blocked := (chunk.get("promptFeedback") or {}).get("blockReason"):
            code = _code(blocked)
            raise ContentFiltered(
                f"{self._provider} refused the prompt {code}", resource=self._provider, metadata={"code": code}
            )
        for told in chunk.get("candidates") or ():
            index = told.get("index", 0)
            if not 0 <= index < len(self._candidates):
                raise ValueError("a choice nobody asked for")
            candidate = self._candidates[index]
            for part in (told.get("content") or {}).get("parts") or ():
                self._read_part(candidate, part)
            if logprobs := told.get("logprobsResult"):
                candidate.new.logprobs.extend(_logprobs(logprobs))
            reason = told.get("finishReason", "FINISH_REASON_UNSPECIFIED")
            if reason != "FINISH_REASON_UNSPECIFIED" and candidate.finish is None:
                self._finish(candidate, reason)

    def _about(self, chunk: Mapping[str, Any]) -> None:
        """Usage is cumulative: the last holds."""
        exchange = self._exchange
        if usage := chunk.get("usageMetadata"):
            exchange.usage = usage_of(usage)
        exchange.model = exchange.model or str(chunk.get("modelVersion") or "")[:200]
        exchange.provider_request_id = exchange.provider_request_id or str(chunk.get("responseId") or "")[:100]

    def _read_part(self, candidate: _Candidate, part: Mapping[str, Any]) -> None:
        """Text, a thought or a call; of any other part (code that ran there, an image) the contract can say nothing."""
        new, signature = candidate.new, part.get("thoughtSignature")
        text = part.get("text") or ""
        if (call := part.get("functionCall")) is not None:
            candidate.keepsake.call(signature)
            id = call.get("id") or f"{MADE}{self._exchange.provider_request_id}_{new.choice}_{candidate.calls}"
            arguments = json.dumps(call.get("args") or {}, separators=(",", ":"), ensure_ascii=False)
            new.tool_calls.add(index=candidate.calls, id=id, name=call["name"], arguments=arguments)
            candidate.calls += 1
        elif part.get("thought"):
            candidate.keepsake.thought(text, signature)
            new.reasoning += text
        elif "text" in part or signature is not None:
            candidate.keepsake.text(text, signature)
            new.text += text

    def _finish(self, candidate: _Candidate, told: object) -> None:
        reason = FINISHES.get(str(told))
        if reason is None:
            raise self._broken(f"broke the answer off {_code(told)}", code=_code(told))
        if reason == v1.FINISH_REASON_STOP and candidate.calls:
            reason = v1.FINISH_REASON_TOOL_CALLS
        candidate.finish = v1.ChoiceFinish(choice=candidate.new.choice, reason=reason)
        if (state := candidate.keepsake.state(self._resource)) is not None:
            candidate.new.provider_state.CopyFrom(state)

    def _new(self) -> list[v1.Delta]:
        """What is new since the last time."""
        deltas = []
        for candidate in self._candidates:
            delta = candidate.new
            if len(delta.ListFields()) > bool(delta.choice):
                self._exchange.said_bytes += _size(delta)
                deltas.append(delta)
                candidate.new = v1.Delta(choice=delta.choice)
        return deltas

    def _said(self, error: object) -> SpillwayError:
        code = error.get("code") if isinstance(error, Mapping) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        id = self._exchange.provider_request_id
        return refusal_of(self._provider, status, {"error": error}, {}, now=0.0, request_id=id)

    def _garbled(self, error: Exception) -> ProviderError:
        return self._broken(f"sent a chunk that is not of its wire format ({type(error).__name__})")

    def _broken(self, said: str, **metadata: str) -> ProviderError:
        return ProviderError(f"{self._provider} {said}", resource=self._provider, metadata=metadata)

    def __repr__(self) -> str:
        ended = sum(candidate.finish is not None for candidate in self._candidates)
        return f"<GeminiAnswer {self._resource} {ended}/{len(self._candidates)} ended>"


def usage_of(told: Mapping[str, Any]) -> v1.Usage:
    """Return the counts told: what tools said there is part of the prompt, thoughts are part of the completion.

    JSON leaves out a count of 0; that none was said is known where the total is.
    """
    said = [told[name] for name in ("candidatesTokenCount", "thoughtsTokenCount") if name in told]
    asked = told.get("promptTokenCount")
    if asked is not None:
        asked += told.get("toolUsePromptTokenCount", 0)
    completion = sum(said) if said else None
    if completion is None and asked is not None and "totalTokenCount" in told:
        completion = max(0, told["totalTokenCount"] - asked)
    return v1.Usage(
        prompt_tokens=asked,
        completion_tokens=completion,
        cached_prompt_tokens=told.get("cachedContentTokenCount"),
        reasoning_tokens=told.get("thoughtsTokenCount"),
    )


def _logprobs(told: Mapping[str, Any]) -> Iterable[v1.TokenLogprob]:
    """One per token; the alternatives of a token stand in a list of their own, in step with the tokens."""
    others = told.get("topCandidates") or ()
    for at, chosen in enumerate(told.get("chosenCandidates") or ()):
        top = (others[at].get("candidates") or ()) if at < len(others) else ()
        yield v1.TokenLogprob(**_token(chosen), top=[v1.TopLogprob(**_token(one)) for one in top])


def _token(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "token_id": told.get("tokenId", 0),
        "token": told.get("token", ""),
        "logprob": told.get("logProbability", 0.0),
    }


def _size(delta: v1.Delta) -> int:
    texts = [delta.text, delta.reasoning]
    for call in delta.tool_calls:
        texts += (call.name, call.arguments)
    return sum(len(text.encode()) for text in texts)


def _code(told: object) -> str:
    """`told` if it is a code, and not a sentence."""
    text = str(told)
    return text if text.isascii() and text.replace("_", "").isalpha() and len(text) <= 80 else "for a reason of its own"
