"""An answer as a completion: whole, or as chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from spillway import v1

from .answer import Frame, encode, encode_text, finish_reason, usage_of


def whole(response: v1.GenerateResponse, created: int) -> dict[str, Any]:
    """The body of a completion. `created`: seconds since the epoch."""
    return {
        "id": f"cmpl-{response.started.request_id}",
        "object": "text_completion",
        "created": created,
        "model": response.started.model,
        "choices": [
            {
                "index": index,
                "text": choice.content.text,
                "logprobs": _logprobs(choice.content.logprobs, 0),
                "finish_reason": finish_reason(choice.finish),
            }
            for index, choice in enumerate(response.choices)
        ],
        "usage": usage_of(response.usage),
    }


class CompletionChunks:
    """The chunks of one completion."""

    def __init__(self, request_id: str, created: int, *, include_usage: bool) -> None:
        self._frame = Frame("text_completion", f"cmpl-{request_id}", created, include_usage=include_usage)
        self._said: Counter[int] = Counter()
        """Choice -> characters so far: completions tell where each token begins."""
        self._around: dict[int, tuple[str, str]] = {}
        """Choice -> what surrounds its text."""

    def begin(self, started: v1.Started) -> None:
        self._frame.begin(started.model)
        self._around.clear()

    def delta(self, delta: v1.Delta) -> str:
        if not delta.logprobs:
            return self.text(delta.text, delta.choice)
        logprobs = encode(_logprobs(delta.logprobs, self._said[delta.choice]))
        self._said[delta.choice] += len(delta.text)
        return encode_text(delta.text).join(self._surround(delta.choice, logprobs))

    def text(self, text: str, choice: int = 0) -> str:
        around = self._around.get(choice)
        if around is None:
            around = self._around[choice] = self._surround(choice, "null")
        self._said[choice] += len(text)
        return around[0] + encode_text(text) + around[1]

    def finish(self, finished: v1.Finished) -> str:
        return "".join(
            self._frame.chunk(
                f'{{"index":{finish.choice},"text":"","logprobs":null,"finish_reason":"{finish_reason(finish)}"}}'
            )
            for finish in finished.choices
        )

    def usage(self, usage: v1.Usage) -> str:
        return self._frame.usage(usage)

    def _surround(self, choice: int, logprobs: str) -> tuple[str, str]:
        return self._frame.around(f'{{"index":{choice},"text":', f',"logprobs":{logprobs},"finish_reason":null}}')


def _logprobs(tokens: Sequence[v1.TokenLogprob], offset: int) -> dict[str, Any] | None:
    if not tokens:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in token.top} for token in tokens],
        "text_offset": offsets,
    }
