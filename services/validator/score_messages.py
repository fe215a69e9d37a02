"""Questions of confidence as they travel, and scores on their way back."""

from __future__ import annotations

from functools import lru_cache

from services.validator.confidence.model import Score
from services.validator.confidence.question import Kind, Question, Sample, Token, property_names
from services.validator.document import NotJson
from spillway import v1
from spillway.errors import SchemaInvalid

TASKS = {number: name.removeprefix("TASK_").lower() for name, number in v1.Task.items() if number}
KINDS: dict[str | None, Kind] = {"json_schema": "json", "json_object": "json", "choices": "choices"}


def question(request: v1.ScoreConfidenceRequest, target: str) -> Question:
    """Return what is asked of the sections of `target`. Raises SchemaInvalid."""
    wanted = request.constraint.WhichOneof("constraint")
    return Question(
        answer=_sample(request.answers[0]),
        target=target,
        task=TASKS.get(request.task, ""),
        prompt="\n".join(request.prompt),
        others=tuple(Sample(answer.text, truncated=answer.truncated) for answer in request.answers[1:]),
        judge=request.judge_score if request.HasField("judge_score") else None,
        kind=KINDS.get(wanted, "text"),
        names=_names(request.constraint.json_schema) if wanted == "json_schema" else frozenset(),
    )


def score_message(found: Score) -> v1.ScoreConfidenceResponse:
    """Return `found` as it travels."""
    signs = found.signs
    return v1.ScoreConfidenceResponse(
        score=found.score,
        signs=v1.ConfidenceSigns(
            mean_logprob=signs.mean_logprob,
            min_logprob=signs.min_logprob,
            entropy=signs.entropy,
            agreement=signs.agreement,
            novelty=signs.novelty,
            refusal=signs.refusal,
            length=signs.length,
            judge=signs.judge,
        ),
        model=found.model,
    )


def _sample(answer: v1.SampledAnswer) -> Sample:
    return Sample(answer.text, tuple(map(_token, answer.logprobs)), answer.truncated)


def _token(told: v1.TokenLogprob) -> Token:
    chosen = (told.token_id, told.token)
    others = tuple(top.logprob for top in told.top if (top.token_id, top.token) != chosen)
    return Token(told.token, told.logprob, others)


@lru_cache(maxsize=64)
def _names(schema: str) -> frozenset[str]:
    try:
        return property_names(schema)
    except NotJson as error:
        said = f"it is not JSON that can be read: {error}"
        raise SchemaInvalid.at("constraint.json_schema", said) from None
