"""Outcomes: answers of which it is known whether they were right, one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.validator.confidence.question import Question, Sample, Token, property_names
from services.validator.document import NotJson

Logprob = Annotated[float, Field(le=0.01)]
Alternatives = list[tuple[str, Logprob]]


class OutcomeInvalid(ValueError):
    """A line is no outcome; the message names line and field, and quotes nothing."""


class Line(BaseModel):
    """A line as it is written. Fields that are not named here are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    target: str = Field(min_length=1, max_length=256)
    task: str = Field("", max_length=64)
    prompt: str | list[str] = ""
    answer: str
    logprobs: list[tuple[str, Logprob] | tuple[str, Logprob, Alternatives]] = []
    right: bool = Field(strict=True)
    truncated: bool = False
    samples: list[str] = []
    judge: float | None = Field(None, ge=0, le=1)
    json_schema: str = Field("", alias="schema")
    group: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A question, and whether its answer was right.

    Outcomes of one `group` are alike, and never on both sides of a cross-validation; empty: like no other.
    """

    question: Question
    right: bool
    group: str = ""


def read(lines: Iterable[bytes]) -> Iterator[Outcome]:
    """Yield the outcomes that `lines` hold, empty lines aside. Raises OutcomeInvalid."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _outcome(Line.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise OutcomeInvalid(f"line {number}: {place + ': ' if place else ''}{first['msg']}") from None
        except NotJson as error:
            raise OutcomeInvalid(f"line {number}: schema: {error}") from None


def _outcome(line: Line) -> Outcome:
    return Outcome(
        Question(
            answer=Sample(line.answer, tuple(map(_token, line.logprobs)), line.truncated),
            target=line.target,
            task=line.task,
            prompt=line.prompt if isinstance(line.prompt, str) else "\n".join(line.prompt),
            others=tuple(map(Sample, line.samples)),
            judge=line.judge,
            kind="json" if line.json_schema else "text",
            names=property_names(line.json_schema) if line.json_schema else frozenset(),
        ),
        line.right,
        line.group,
    )


def _token(told: tuple[str, float] | tuple[str, float, Alternatives]) -> Token:
    alternatives = told[2] if len(told) == 3 else []
    return Token(told[0], told[1], tuple(logprob for text, logprob in alternatives if text != told[0]))
