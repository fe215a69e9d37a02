"""Where the confidence in an answer is scored: at once, or in a thread where there is much to read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator

from services.validator.confidence.model import Score
from services.validator.confidence_file import ConfidenceFile
from services.validator.score_messages import question
from services.validator.settings import ConfidenceSettings
from spillway import v1
from spillway.errors import FieldViolation, RequestInvalid, SpillwayError
from spillway.rpc.call import Call
from spillway.telemetry import names
from spillway.telemetry.tracing import Tracing, fail

_CERTAIN = 0.01
"""What rounding may put the logarithm of a probability of 1 above 0."""


class Scorer:
    """Checks what is brought, scores it, and tells the trace the score and the model, never a text."""

    def __init__(self, settings: ConfidenceSettings, *, file: ConfidenceFile, tracing: Tracing) -> None:
        self._settings = settings
        self._file = file
        self._tracing = tracing

    async def score(self, call: Call, request: v1.ScoreConfidenceRequest) -> Score:
        """Return how likely the first answer of `request` is right. Raises RequestInvalid or SchemaInvalid.

        Time is linear in what is read; of long prompts only a part is.
        """
        span = self._tracing.start(names.SCORE, call.span)
        try:
            size = self._check(request)
            inline = size <= self._settings.inline_size
            found = self._scored(request) if inline else await asyncio.to_thread(self._scored, request)
            if found.score is not None:
                span.set_attribute(names.CONFIDENCE, found.score)
            span.set_attribute(names.CONFIDENCE_MODEL, found.model)
            return found
        except SpillwayError as error:
            fail(span, error.reason)
            raise
        finally:
            span.end()

    def _scored(self, request: v1.ScoreConfidenceRequest) -> Score:
        target = self._settings.aliases.get(request.target, request.target)
        return self._file.model.score(question(request, target))

    def _check(self, request: v1.ScoreConfidenceRequest) -> int:
        """Return how much there is to read, in bytes and log probabilities."""
        bounds = self._settings
        if not request.answers:
            raise RequestInvalid.at("answers", "is empty: give at least one answer")
        if len(request.answers) > bounds.max_answers:
            said = f"has {len(request.answers)} entries; at most {bounds.max_answers} are compared"
            raise RequestInvalid.at("answers", said)
        if request.HasField("judge_score") and not 0 <= request.judge_score <= 1:
            raise RequestInvalid.at("judge_score", "is not between 0 and 1")
        prompt = [(f"prompt[{index}]", text) for index, text in enumerate(request.prompt)]
        answers = [("constraint.json_schema", request.constraint.json_schema)]
        answers += [(f"answers[{index}].text", answer.text) for index, answer in enumerate(request.answers)]
        size = _size(prompt, bounds.max_prompt_bytes) + _size(answers, bounds.max_answer_bytes)
        told = 0
        for index, answer in enumerate(request.answers):
            told += sum(1 + len(token.top) for token in answer.logprobs)
            if told > bounds.max_tokens:
                said = f"ends past {bounds.max_tokens} log probabilities; no more are read at once"
                raise RequestInvalid.at(f"answers[{index}].logprobs", said)
        wrong = next(_wrong(request.answers[0]), None)
        if wrong is not None:
            raise RequestInvalid(f"{wrong.field}: {wrong.description}", fields=[wrong])
        return size + told

    def __repr__(self) -> str:
        return f"<Scorer {self._file!r}>"


def _size(texts: Iterable[tuple[str, str]], most: int) -> int:
    """Return the bytes of `texts` in UTF-8. Raises RequestInvalid, naming the field that goes past `most`."""
    size = 0
    for field, text in texts:
        size += len(text.encode())
        if size > most:
            raise RequestInvalid.at(field, f"ends past {most} bytes; no more are read at once")
    return size


def _wrong(answer: v1.SampledAnswer) -> Iterator[FieldViolation]:
    for index, token in enumerate(answer.logprobs):
        told = [("", token.logprob), *((f".top[{at}]", top.logprob) for at, top in enumerate(token.top))]
        for place, logprob in told:
            if math.isnan(logprob) or logprob > _CERTAIN:
                field = f"answers[0].logprobs[{index}]{place}.logprob"
                yield FieldViolation(field, "is no natural logarithm of a probability: it is above 0, or no number")
