"""Going on with an answer that another engine began: same weights, same tokenizer, token by token.

The tokens so far are put behind the prompt, so that the model sees what it saw. The text is decoded here from the first
token of the answer on, and stop strings are looked for in all of it: whatever spans the cut is treated as if there had
been none. Greedy answers go on exactly; sampled ones from the same distribution, their seed's sequence begins anew.

An answer of another model has no tokens here: its text alone is given, and becomes the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.local_engine.decoding import Decoding
from services.local_engine.support import invalid, unsupported
from spillway import v1

FIELD = "spec.continuation"
DONE = ("stop", "include_stop_str_in_output", "prompt_logprobs")
"""Stop strings are looked for here, and what is told of the prompt was told before the cut."""
PENALTIES = ("presence_penalty", "frequency_penalty")
"""The engine counts these over its own tokens alone."""
EARLIER = "spillway_earlier"
"""Name, among a request's extra arguments in vLLM, of the tokens that it is to count besides."""


@dataclass(frozen=True, slots=True)
class Piece:
    """New tokens with their text, in the shape of vLLM's CompletionOutput."""

    text: str
    token_ids: Sequence[int]
    logprobs: Any
    finish_reason: str | None
    stop_reason: int | str | None
    index: int = 0


class Resumption:
    """The text of an answer across the cut."""

    def __init__(self, spec: v1.GenerationSpec, step: Callable[[int], str | None]) -> None:
        """`step` decodes: it returns the text that one more token brings, None while a character is incomplete."""
        self._step = step
        self._stops = tuple(spec.stop.strings)
        self._keep_stop = spec.stop.include_stop
        self._held = 0 if self._keep_stop else max((len(text) for text in self._stops), default=1) - 1
        self._min_tokens = spec.sampling.min_tokens
        self._tokens = 0
        self._text = ""
        for token_id in spec.continuation.token_ids:
            self._add(token_id)
        if not self._text.startswith(spec.continuation.text):
            raise invalid(f"{FIELD}.text", "is not what these tokens say")
        self._sent = len(spec.continuation.text)

    def ended(self, spec: v1.GenerationSpec, eos: frozenset[int], max_tokens: int) -> Piece | None:
        """The rest of an answer that had ended and only had not been said to; else None."""
        last = spec.continuation.token_ids[-1]
        if (stop := self._stop(0)) is not None:
            return self._piece((), (), "stop", stop)
        if last in spec.stop.token_ids:
            return self._piece((), (), "stop", last)
        if last in eos and not spec.stop.ignore_eos:
            return self._piece((), (), "stop", None)
        if self._tokens >= max_tokens:
            return self._piece((), (), "length", None)
        return None

    def piece(self, completion: Any) -> Piece:
        """What a CompletionOutput of vLLM adds; ended where a stop string is complete."""
        for at, token_id in enumerate(completion.token_ids, 1):
            before = len(self._text)
            self._add(token_id)
            if (stop := self._stop(before)) is not None:
                logprobs = completion.logprobs[:at] if completion.logprobs else completion.logprobs
                return self._piece(completion.token_ids[:at], logprobs, "stop", stop)
        return self._piece(completion.token_ids, completion.logprobs, completion.finish_reason, completion.stop_reason)

    def _add(self, token_id: int) -> None:
        self._tokens += 1
        self._text += self._step(token_id) or ""

    def _stop(self, before: int) -> str | None:
        """The stop string that the text now has, whose end is after `before`; the text is cut there."""
        if self._tokens <= self._min_tokens:
            return None
        found = [
            (at, text) for text in self._stops if (at := self._text.find(text, max(0, before - len(text) + 1))) >= 0
        ]
        if not found:
            return None
        at, text = min(found)
        self._text = self._text[: at + len(text) if self._keep_stop else at]
        return text

    def _piece(self, ids: Sequence[int], logprobs: Any, finish: str | None, stop: int | str | None) -> Piece:
        end = len(self._text) if finish else max(self._sent, len(self._text) - self._held)
        text, self._sent = self._text[self._sent : end], max(self._sent, end)
        return Piece(text, ids, logprobs, finish, stop)

    def __repr__(self) -> str:
        return f"<Resumption {self._tokens} tokens {self._sent}/{len(self._text)} characters sent>"


def continued(how: Decoding, token_ids: Sequence[int], *, penalties: bool) -> Decoding:
    """How the rest of an answer is decoded of which there are `token_ids` already.

    Raises ConstraintUnsupported for penalties on them where the engine cannot be told of these (`penalties`).
    """
    asked = [name for name in PENALTIES if how.arguments.get(name)]
    if asked and not penalties:
        raise unsupported(f"spec.sampling.{asked[0]}", "cannot be restored when an answer is continued")
    rest = {name: value for name, value in how.arguments.items() if name not in DONE}
    rest["max_tokens"] -= len(token_ids)
    rest["min_tokens"] = max(0, rest.get("min_tokens", 0) - len(token_ids))
    if asked:
        rest["extra_args"] = {EARLIER: list(token_ids)}
    return replace(how, arguments=rest)


def require(spec: v1.GenerationSpec) -> None:
    """Raise where an answer to `spec` cannot be continued: the field says which part of it."""
    if not spec.continuation.token_ids and not spec.continuation.text:
        raise invalid(f"{FIELD}.token_ids", "is empty, and so is the text: there is nothing to go on with")
    if not spec.continuation.token_ids and spec.HasField("tokens"):
        raise unsupported(f"{FIELD}.text", "cannot be put behind token ids")
    if spec.HasField("constraint"):
        raise unsupported("spec.constraint", "a constrained answer cannot be continued, only begun anew")
    if spec.sampling.n > 1:
        raise unsupported("spec.sampling.n", "several choices cannot be continued, only begun anew")
    if spec.tools:
        raise unsupported("spec.tools", "an answer that may hold calls cannot be continued, only begun anew")


def require_plain(spec: v1.GenerationSpec) -> None:
    """Raise where an answer is to be continued by its tokens that is not all text: where each part ends is not told."""
    if spec.continuation.token_ids:
        raise unsupported(f"{FIELD}.token_ids", "an answer with reasoning cannot be continued, only begun anew")
