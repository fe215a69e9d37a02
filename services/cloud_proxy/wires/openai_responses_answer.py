"""The events of OpenAI's Responses API, read into deltas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jiter

from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.wires import openai_responses_state as state
from spillway import v1
from spillway.errors import ContentFiltered, ProviderError, SpillwayError
from spillway.openai.answer import DONE, FOREIGN, usage_of
from spillway.openai.errors import in_stream
from spillway.openai.piece import Piece, logprob

INCOMPLETE = {
    "max_output_tokens": v1.FINISH_REASON_LENGTH,
    "content_filter": v1.FINISH_REASON_CONTENT_FILTER,
}
"""Any other reason (`steered`, one not yet known) is no end of a whole answer."""
REASONING = {"response.reasoning_summary_text.delta": "summary_index", "response.reasoning_text.delta": "content_index"}
"""Event -> what numbers the parts of reasoning; a summary's and the text's own."""
BETWEEN_PARTS = "\n\n"


class ResponsesAnswer:
    """One answer on its way: items of reasoning, messages and calls, which become one choice.

    What an item says comes in deltas or, from some servers, at once with the item or with the whole answer.
    """

    def __init__(self, provider: str, exchange: Exchange) -> None:
        self._provider = provider
        self._exchange = exchange
        self._items: dict[int, Mapping[str, Any]] = {}
        self._heard: set[int] = set()
        self._calls: dict[int, int] = {}
        self._part: tuple[object, ...] = ()
        self._refused = False
        self._finish: v1.ChoiceFinish | None = None
        self.done = False

    def take(self, events: Iterable[bytes]) -> list[v1.Delta]:
        """Read the data of `events`. Raises the SpillwayError that an error among them means, else ProviderError."""
        piece = Piece()
        try:
            for data in events:
                if self.done or data == DONE:
                    self.done = True
                    break
                self._read(jiter.from_json(data), piece)
            return self._deltas(piece)
        except FOREIGN as error:
            raise self._garbled(error) from None

    def whole(self, body: bytes) -> list[v1.Delta]:
        """Read an answer that came in one piece."""
        piece = Piece()
        try:
            self._end(jiter.from_json(body), piece)
            return self._deltas(piece)
        except FOREIGN as error:
            raise self._garbled(error) from None

    def check(self) -> None:
        """Raise unless the whole answer is there; else tell the exchange how it ended."""
        finish = self._finish
        if finish is None:
            raise ProviderError(f"{self._provider} broke the answer off", resource=self._provider)
        if finish.reason == v1.FINISH_REASON_CONTENT_FILTER and not self._exchange.said_bytes:
            raise ContentFiltered(f"{self._provider} refused to answer", resource=self._provider)
        self._exchange.finishes = [finish]

    def _read(self, told: Mapping[str, Any], piece: Piece) -> None:
        kind = told.get("type")
        match kind:
            case "response.output_text.delta" | "response.refusal.delta":
                self._heard.add(told["output_index"])
                self._say(told, told["delta"], piece, refusal=kind != "response.output_text.delta")
            case "response.function_call_arguments.delta":
                self._heard.add(told["output_index"])
                piece.call(self._calls[told["output_index"]]).arguments += told["delta"]
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                self._heard.add(told["output_index"])
                self._think((told["output_index"], kind, told[REASONING[kind]]), told["delta"], piece)
            case "response.output_item.added":
                self._open(told["output_index"], told["item"], piece)
            case "response.output_item.done":
                self._close(told["output_index"], told["item"], piece)
            case "response.created" | "response.in_progress":
                self._about(told["response"])
            case "response.completed" | "response.incomplete" | "response.failed":
                self._end(told["response"], piece)
            case "error":  # flat by its documentation, nested as it comes
                raise self._said(told.get("error") or {name: told.get(name) for name in ("code", "message", "param")})
            case _ if error := told.get("error"):
                raise self._said(error)

    def _open(self, index: int, item: Mapping[str, Any], piece: Piece) -> None:
        """A call is named by the item that opens it."""
        if item["type"] == state.CALL and index not in self._calls:
            at = self._calls[index] = len(self._calls)
            call = piece.call(at)
            call.id, call.name = item["call_id"], item["name"]

    def _close(self, index: int, item: Mapping[str, Any], piece: Piece) -> None:
        """Keep the whole item; of one whose deltas did not come, read it all."""
        self._items[index] = item
        self._open(index, item, piece)
        if index in self._heard:
            return
        self._heard.add(index)
        match item["type"]:
            case state.CALL:
                piece.call(self._calls[index]).arguments += item["arguments"]
            case state.MESSAGE:
                for part in item["content"]:
                    refusal = part["type"] == "refusal"
                    self._say(part, part["refusal" if refusal else "text"], piece, refusal=refusal)
            case state.REASONING:
                for name in ("summary", "content"):
                    for at, part in enumerate(item.get(name) or ()):
                        self._think((index, name, at), part["text"], piece)

    def _say(self, told: Mapping[str, Any], text: str, piece: Piece, *, refusal: bool) -> None:
        self._refused |= refusal
        piece.text.append(text)
        if logprobs := told.get("logprobs"):
            piece.logprobs.extend(logprob(one) for one in logprobs)

    def _think(self, part: tuple[object, ...], text: str, piece: Piece) -> None:
        if text and self._part not in ((), part):
            piece.reasoning.append(BETWEEN_PARTS)
        if text:
            self._part = part
            piece.reasoning.append(text)

    def _end(self, response: Mapping[str, Any], piece: Piece) -> None:
        """Read how the answer ended, and what of it nobody has told yet."""
        self._about(response)  # one that failed may have a price too
        if response["status"] == "failed":
            raise self._said(response.get("error"))
        if not self._heard and not self._items:
            for index, item in enumerate(response["output"]):
                self._close(index, item, piece)
        reason = self._reason(response)
        self._finish = v1.ChoiceFinish(choice=0, reason=reason)
        items = [self._items[index] for index in sorted(self._items)]
        piece.state = state.kept(items, stored=bool(response.get("store")))
        self.done = True

    def _reason(self, response: Mapping[str, Any]) -> v1.FinishReason.ValueType:
        if response["status"] == "incomplete":
            reason = INCOMPLETE.get(str((response.get("incomplete_details") or {}).get("reason")))
            if reason is not None:
                return reason
        if response["status"] != "completed":
            raise ProviderError(f"{self._provider} broke the answer off", resource=self._provider)
        if self._refused:
            return v1.FINISH_REASON_CONTENT_FILTER
        return v1.FINISH_REASON_TOOL_CALLS if self._calls else v1.FINISH_REASON_STOP

    def _about(self, response: Mapping[str, Any]) -> None:
        if usage := response.get("usage"):
            self._exchange.usage = usage_of(usage, "input", "output")
        if not self._exchange.model and (model := response.get("model")):
            self._exchange.model = str(model)[:200]

    def _deltas(self, piece: Piece) -> list[v1.Delta]:
        delta = piece.delta(0, self._exchange)
        return [] if delta is None else [delta]

    def _said(self, error: object) -> SpillwayError:
        return in_stream(self._provider, error, request_id=self._exchange.provider_request_id)

    def _garbled(self, error: Exception) -> SpillwayError:
        return ProviderError(
            f"{self._provider} sent an event that is not of its wire format ({type(error).__name__})",
            resource=self._provider,
        )

    def __repr__(self) -> str:
        return (
            f"<ResponsesAnswer {self._provider} {len(self._items)} items, {'whole' if self._finish else 'on its way'}>"
        )
