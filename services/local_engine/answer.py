"""The answer: from vLLM's outputs to the contract's events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from services.local_engine.decoding import Guide
from services.local_engine.support import unsupported
from spillway import v1
from spillway.errors import SpillwayError, TargetDown


class Completion(Protocol):
    """The part of vLLM's CompletionOutput that is used."""

    @property
    def index(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Any: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def stop_reason(self) -> int | str | None: ...


class Reader(Protocol):
    """What tells tool calls and reasoning from text, choice by choice."""

    def read(self, completion: Completion, into: v1.Delta) -> None:
        """Put into a delta what `completion` adds to its choice."""
        ...

    def called(self, index: int) -> bool:
        """Whether the choice has called a tool."""
        ...

    def reasoning_tokens(self) -> int | None:
        """Return the tokens of all reasoning so far; None: unknown."""
        ...


class Answer:
    """What one request has brought so far. Without a reader all of it is text."""

    def __init__(self, spec: v1.GenerationSpec, guide: Guide | None, reader: Reader | None = None) -> None:
        self._stop_ids = frozenset(spec.stop.token_ids)
        self._top = spec.logprobs.top if spec.HasField("logprobs") else None
        self._guide = guide
        self._reader = reader
        self._finishes: dict[int, v1.ChoiceFinish] = {}
        self.completion_tokens = 0

    def deltas(self, completions: Sequence[Completion]) -> Iterator[v1.Delta]:
        """Yield what is new, per choice. Raises SpillwayError where the engine gave a choice up."""
        for completion in completions:
            if self._reader is not None:
                yield from self._read(self._reader, completion)
            elif completion.token_ids or completion.text:
                yield self._delta(completion, completion.text)
            if completion.finish_reason is not None:
                self._finishes[completion.index] = self._finish(completion)

    def told(self, rest: Completion, *, prompt_tokens: int) -> Iterator[v1.GenerationEvent]:
        """The events of an answer whose `rest` needs no engine."""
        yield v1.GenerationEvent(started=v1.Started(prompt_tokens=prompt_tokens))
        for delta in self.deltas([rest]):
            yield v1.GenerationEvent(delta=delta)
        yield v1.GenerationEvent(finished=self.finished())
        yield v1.GenerationEvent(usage=self.usage(prompt_tokens))

    def usage(self, prompt_tokens: int) -> v1.Usage:
        """The tokens so far."""
        usage = v1.Usage(prompt_tokens=prompt_tokens, completion_tokens=self.completion_tokens)
        if self._reader is not None and (reasoning := self._reader.reasoning_tokens()) is not None:
            usage.reasoning_tokens = reasoning
        return usage

    def finished(self) -> v1.Finished:
        """How each choice ended."""
        return v1.Finished(choices=[self._finishes[index] for index in sorted(self._finishes)])

    def _delta(self, completion: Completion, text: str = "") -> v1.Delta:
        ids = completion.token_ids
        self.completion_tokens += len(ids)
        logprobs = () if self._top is None else told_logprobs(ids, completion.logprobs or (), self._top)
        return v1.Delta(choice=completion.index, text=text, token_ids=ids, tokens=len(ids), logprobs=logprobs)

    def _read(self, reader: Reader, completion: Completion) -> Iterator[v1.Delta]:
        delta = self._delta(completion)
        reader.read(completion, delta)
        if delta.token_ids or delta.text or delta.reasoning or delta.tool_calls:
            yield delta

    def _finish(self, completion: Completion) -> v1.ChoiceFinish:
        stop = completion.stop_reason
        match completion.finish_reason:
            case "stop" if self._reader is not None and self._reader.called(completion.index):
                string = stop if isinstance(stop, str) else ""
                reason = v1.FINISH_REASON_TOOL_CALLS
                return v1.ChoiceFinish(choice=completion.index, reason=reason, stop_string=string)
            case "stop" if isinstance(stop, str):
                return v1.ChoiceFinish(choice=completion.index, reason=v1.FINISH_REASON_STOP_SEQUENCE, stop_string=stop)
            case "stop" if stop in self._stop_ids:
                return v1.ChoiceFinish(choice=completion.index, reason=v1.FINISH_REASON_STOP_SEQUENCE)
            case "stop" | "repetition":
                return v1.ChoiceFinish(choice=completion.index, reason=v1.FINISH_REASON_STOP)
            case "length":
                return v1.ChoiceFinish(choice=completion.index, reason=v1.FINISH_REASON_LENGTH)
            case _:
                raise self._given_up()

    def _given_up(self) -> SpillwayError:
        if self._guide is not None:  # its grammar passed the checks and could not be compiled for this tokenizer
            return unsupported(self._guide.field, "the engine cannot decode under this constraint")
        return TargetDown("the engine gave this request up")


def started(spec: v1.GenerationSpec, ids: Sequence[int], positions: Sequence[Any] | None) -> v1.Started:
    """Return the event that begins an answer to the prompt `ids`.

    `positions` is what vLLM tells of the prompt's tokens, one for each; nothing is known of the first.
    """
    told = () if not positions else told_logprobs(ids[1:], positions[1:], spec.logprobs.prompt)
    return v1.Started(prompt_tokens=len(ids), prompt_logprobs=told)


def told_logprobs(ids: Sequence[int], positions: Sequence[Mapping[int, Any]], top: int) -> Iterator[v1.TokenLogprob]:
    """Yield each token with its log probability and the `top` likeliest there, from vLLM's own entries."""
    for token_id, position in zip(ids, positions, strict=False):
        chosen = position[token_id]
        ranked = sorted(
            (entry for entry in position.items() if entry[1].rank is not None and entry[1].rank <= top),
            key=lambda entry: entry[1].rank,
        )
        yield v1.TokenLogprob(
            token_id=token_id,
            token=chosen.decoded_token or "",
            logprob=chosen.logprob,
            top=[
                v1.TopLogprob(token_id=other, token=found.decoded_token or "", logprob=found.logprob)
                for other, found in ranked
            ],
        )
