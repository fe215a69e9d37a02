"""The chunks of OpenAI's chat completions, read into deltas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jiter

from spillway import v1
from spillway.errors import ContentFiltered, SpillwayError
from spillway.openai.errors import PROVIDERS, Table, in_stream
from spillway.openai.exchange import Exchange

DONE = b"[DONE]"
FINISHES = {
    "stop": v1.FINISH_REASON_STOP,
    "eos": v1.FINISH_REASON_STOP,
    "end_turn": v1.FINISH_REASON_STOP,
    "length": v1.FINISH_REASON_LENGTH,
    "max_tokens": v1.FINISH_REASON_LENGTH,
    "tool_calls": v1.FINISH_REASON_TOOL_CALLS,
    "function_call": v1.FINISH_REASON_TOOL_CALLS,
    "content_filter": v1.FINISH_REASON_CONTENT_FILTER,
}
"""Any other reason (`error`, `abort`, one not yet known) is no end of a whole answer."""
FOREIGN = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What reading a chunk of another shape raises."""


class _Piece:
    """What one read holds for one choice."""

    __slots__ = ("calls", "logprobs", "reasoning", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[v1.TokenLogprob] = []
        self.calls: dict[int, v1.ToolCallDelta] = {}


class Answer:
    """One answer on its way. Everything read at once is merged into one delta per choice."""

    def __init__(self, provider: str, choices: int, exchange: Exchange, *, table: Table = PROVIDERS) -> None:
        self._provider = provider
        self._table = table
        self._choices = choices
        self._exchange = exchange
        self._finishes: dict[int, v1.ChoiceFinish] = {}
        self._refused: set[int] = set()
        self._named: set[tuple[int, int]] = set()
        self.done = False

    def take(self, events: Iterable[bytes]) -> list[v1.Delta]:
        """Read the data of `events`. Raises what an error among them means, and the table's `otherwise`."""
        return self.read(self._parsed(events))

    def read(self, chunks: Iterable[Mapping[str, Any]]) -> list[v1.Delta]:
        """Read `chunks`, parsed already. Raises as `take` does."""
        pieces: dict[int, _Piece] = {}
        try:
            for chunk in chunks:
                if error := chunk.get("error"):
                    raise self._said(error)
                for choice in chunk.get("choices") or ():
                    self._read(choice, choice.get("delta") or {}, pieces)
                self._about(chunk)
            return self._deltas(pieces)
        except FOREIGN as error:
            raise self._garbled(error) from None

    def _parsed(self, events: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
        for data in events:
            if self.done or data == DONE:
                self.done = True
                return
            yield jiter.from_json(data)

    def whole(self, body: bytes) -> list[v1.Delta]:
        """Read an answer that came in one piece, from a server that does not stream."""
        pieces: dict[int, _Piece] = {}
        try:
            told = jiter.from_json(body)
            if error := told.get("error"):
                raise self._said(error)
            for choice in told["choices"]:
                self._read(choice, choice["message"], pieces)
            self._about(told)
            self.done = True
            return self._deltas(pieces)
        except FOREIGN as error:
            raise self._garbled(error) from None

    def check(self) -> None:
        """Raise unless the whole answer is there; else tell the exchange how it ended.

        An answer whose every choice has its finish reason is whole, with or without `[DONE]`.
        """
        missing = [str(index) for index in range(self._choices) if index not in self._finishes]
        if missing:
            said = f"gave no finish reason for choice {', '.join(missing)}" if self.done else "broke the answer off"
            raise self._table.otherwise(f"{self._provider} {said}", resource=self._provider)
        finishes = [self._finishes[index] for index in sorted(self._finishes)]
        filtered = all(finish.reason == v1.FINISH_REASON_CONTENT_FILTER for finish in finishes)
        if filtered and not self._exchange.said_bytes:
            raise ContentFiltered(f"{self._provider} refused to answer", resource=self._provider)
        self._exchange.finishes = finishes

    def _about(self, told: Mapping[str, Any]) -> None:
        if usage := told.get("usage"):
            self._exchange.usage = usage_of(usage)
        if not self._exchange.model and (model := told.get("model")):
            self._exchange.model = str(model)[:200]

    def _read(self, choice: Mapping[str, Any], delta: Mapping[str, Any], pieces: dict[int, _Piece]) -> None:
        index = choice.get("index", 0)
        if not 0 <= index < self._choices:
            raise ValueError("a choice nobody asked for")
        piece = pieces.get(index)
        if piece is None:
            piece = pieces[index] = _Piece()
        if text := delta.get("content"):
            piece.text.append(text)
        if refusal := delta.get("refusal"):
            piece.text.append(refusal)
            self._refused.add(index)
        if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
            piece.reasoning.append(reasoning)
        if calls := delta.get("tool_calls"):
            for place, call in enumerate(calls):
                self._read_call(index, call.get("index", place), call, piece)
        if logprobs := choice.get("logprobs"):
            for told in (*(logprobs.get("content") or ()), *(logprobs.get("refusal") or ())):
                piece.logprobs.append(_logprob(told))
        if (reason := choice.get("finish_reason")) and index not in self._finishes:
            self._finishes[index] = self._finish(index, reason, choice.get("stop_reason"))

    def _read_call(self, choice: int, index: int, call: Mapping[str, Any], piece: _Piece) -> None:
        function = call.get("function") or {}
        known = piece.calls.get(index)
        if known is None:
            known = piece.calls[index] = v1.ToolCallDelta(index=index)
        if (choice, index) not in self._named and (call.get("id") or function.get("name")):
            self._named.add((choice, index))
            known.id, known.name = call.get("id") or "", function.get("name") or ""
        known.arguments += function.get("arguments") or ""

    def _finish(self, index: int, reason: object, stopped_by: object) -> v1.ChoiceFinish:
        known = FINISHES.get(str(reason))
        if known is None:
            raise self._table.otherwise(f"{self._provider} broke the answer off", resource=self._provider)
        if index in self._refused:
            return v1.ChoiceFinish(choice=index, reason=v1.FINISH_REASON_CONTENT_FILTER)
        if known == v1.FINISH_REASON_STOP and isinstance(stopped_by, str):  # vLLM tells which string it was
            return v1.ChoiceFinish(choice=index, reason=v1.FINISH_REASON_STOP_SEQUENCE, stop_string=stopped_by)
        return v1.ChoiceFinish(choice=index, reason=known)

    def _deltas(self, pieces: Mapping[int, _Piece]) -> list[v1.Delta]:
        deltas = []
        for index, piece in pieces.items():
            text, reasoning = "".join(piece.text), "".join(piece.reasoning)
            if not (text or reasoning or piece.calls or piece.logprobs):
                continue
            delta = v1.Delta(choice=index, text=text)  # what is set costs, even to nothing: most pieces are text alone
            size = len(text.encode())
            if reasoning:
                delta.reasoning = reasoning
                size += len(reasoning.encode())
            if piece.logprobs:
                delta.logprobs.extend(piece.logprobs)
            for call in piece.calls.values():
                delta.tool_calls.append(call)
                size += len(call.name) + len(call.arguments.encode())
            self._exchange.said_bytes += size
            deltas.append(delta)
        return deltas

    def _said(self, error: object) -> SpillwayError:
        return in_stream(self._provider, error, request_id=self._exchange.provider_request_id, table=self._table)

    def _garbled(self, error: Exception) -> SpillwayError:
        return self._table.otherwise(
            f"{self._provider} sent a chunk that is not of its wire format ({type(error).__name__})",
            resource=self._provider,
        )


def usage_of(told: Mapping[str, Any]) -> v1.Usage:
    """Return the counts told. Cached tokens are part of the prompt, reasoning ones of the completion."""
    usage = v1.Usage()
    prompt, completion = told.get("prompt_tokens_details") or {}, told.get("completion_tokens_details") or {}
    for name, value in (
        ("prompt_tokens", told.get("prompt_tokens")),
        ("completion_tokens", told.get("completion_tokens")),
        ("cached_prompt_tokens", prompt.get("cached_tokens")),
        ("reasoning_tokens", completion.get("reasoning_tokens")),
    ):
        if value is not None:
            setattr(usage, name, value)
    return usage


def _logprob(told: Mapping[str, Any]) -> v1.TokenLogprob:
    """Token ids stay 0: this wire tells none."""
    return v1.TokenLogprob(
        token=told["token"],
        logprob=told["logprob"],
        top=[v1.TopLogprob(token=other["token"], logprob=other["logprob"]) for other in told.get("top_logprobs") or ()],
    )
