"""A fitted model: for each target and task what is expected there, and how signs become a score."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.validator.confidence.agreement import agreement
from services.validator.confidence.content import content
from services.validator.confidence.formula import Formula
from services.validator.confidence.novelty import Reference
from services.validator.confidence.probability import certainty
from services.validator.confidence.question import Question
from services.validator.confidence.refusal import refuses
from services.validator.confidence.signs import Signs


@dataclass(frozen=True, slots=True)
class Expectation:
    """How long answers are: mean and standard deviation of the natural logarithm of their characters, one added."""

    mean: float
    deviation: float

    def of(self, text: str) -> float:
        """Return how far the length of `text` is from the mean, in standard deviations."""
        return (log_length(text) - self.mean) / self.deviation


def log_length(text: str) -> float:
    """The natural logarithm of one more than the characters of `text`, white space around it aside."""
    return math.log(1 + len(text.strip()))


@dataclass(frozen=True, slots=True)
class Section:
    """What holds for one target and task; empty names hold for all."""

    formula: Formula
    target: str = ""
    task: str = ""
    expectation: Expectation | None = None
    reference: Reference | None = None
    model: str = ""
    """Name and revision of the model it comes from."""


@dataclass(frozen=True, slots=True)
class Score:
    """How likely an answer is right, 0 to 1; None where no sign is known."""

    score: float | None
    signs: Signs
    model: str


@dataclass(frozen=True, slots=True)
class Model:
    """Sections, those that come first before others."""

    sections: tuple[Section, ...]

    def over(self, below: Model) -> Model:
        """This model, with the sections of `below` for what it says nothing of."""
        return Model((*self.sections, *below.sections))

    def section(self, target: str, task: str) -> Section:
        """Return the first section of the target and the task, of the target, of the task, or of all, in this order."""
        for wanted in ((target, task), (target, ""), ("", task), ("", "")):
            for section in self.sections:
                if (section.target, section.task) == wanted:
                    return section
        return Section(Formula(0.0, {"mean_logprob": 1.0}))

    def score(self, question: Question) -> Score:
        """Return how likely the answer of `question` is right, and by what signs."""
        section = self.section(question.target, question.task)
        signs = read_signs(question, section)
        return Score(section.formula.score(signs) if signs.telling else None, signs, section.model)

    def __repr__(self) -> str:
        names = dict.fromkeys(section.model for section in self.sections)
        return f"<Model {', '.join(names)} {len(self.sections)} sections>"


def read_signs(question: Question, section: Section) -> Signs:
    """Return what can be known of the answer of `question`, against what `section` expects."""
    answer = question.answer
    certain = certainty(content(question))
    declines = question.kind == "text" and refuses(answer.text)
    return Signs(
        mean_logprob=None if certain is None else certain.mean,
        min_logprob=None if certain is None else certain.least,
        entropy=None if certain is None else certain.entropy,
        agreement=agreement(answer.text, [other.text for other in question.others], question.kind),
        novelty=None if section.reference is None else section.reference.novelty(question.prompt),
        refusal=declines,
        length=None if section.expectation is None else section.expectation.of(answer.text),
        judge=question.judge,
        truncated=answer.truncated,
    )
