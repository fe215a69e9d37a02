"""A model fitted to outcomes: for each target, and each of its tasks, what is expected there and how signs are weighed.

What a sign is worth is learned from outcomes that had no part in what the sign is read against: novelty and length of
one fifth of the outcomes are read against the other four fifths.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from services.validator.confidence.formula import FEATURES, Formula, calibrated, features
from services.validator.confidence.isotonic import isotonic
from services.validator.confidence.model import Expectation, Section, log_length, read_signs
from services.validator.confidence.novelty import Reference
from services.validator.confidence.outcome import Outcome
from services.validator.confidence.regression import fitted
from services.validator.confidence.signs import Signs

FOLDS = 5
FEWEST, FEWEST_EACH = 100, 15
"""Outcomes that a section wants: in all, and right ones and wrong ones."""
PRECISION = 1.0
"""Of the prior on each weight, around the plain formula's; the intercept is left free."""
_SHORTEST_SPREAD = 0.05
Tell = Callable[[str], None]


class TooFew(ValueError):
    """There is not enough to fit a model to; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A section, and how it does on outcomes that it was not fitted to."""

    section: Section
    right: tuple[bool, ...]
    signs: tuple[Signs, ...]
    scores: tuple[float, ...]
    """By cross-validation; so are the signs."""


def fit(outcomes: Sequence[Outcome], plain: Formula, tell: Tell) -> list[Fitted]:
    """Return a section for each target that has enough outcomes, and one for each of its tasks that has.

    `plain` is what weights are where outcomes say nothing. Raises TooFew where there is no section at all.
    """
    found, lacking = [], []
    for target in sorted({outcome.question.target for outcome in outcomes}):
        of_target = [outcome for outcome in outcomes if outcome.question.target == target]
        for task in sorted({"", *(outcome.question.task for outcome in of_target)}):
            chosen = [outcome for outcome in of_target if task in ("", outcome.question.task)]
            good = sum(outcome.right for outcome in chosen)
            name = f"{target}, {task or 'all tasks'}"
            if len(chosen) < FEWEST or min(good, len(chosen) - good) < FEWEST_EACH:
                lacking.append(f"{name}: {good} right, {len(chosen) - good} wrong")
                continue
            tell(f"{name}: {len(chosen)} outcomes")
            found.append(_fitted(chosen, target, task, plain))
    if not found:
        raise TooFew(
            f"at least {FEWEST} outcomes of one target are needed, {FEWEST_EACH} right and {FEWEST_EACH} wrong ones "
            f"among them; there are {'; '.join(lacking) or 'none'}"
        )
    for line in lacking:
        tell(f"left out, too few: {line}")
    return found


def _fitted(outcomes: Sequence[Outcome], target: str, task: str, plain: Formula) -> Fitted:
    right = [outcome.right for outcome in outcomes]
    folds = [_fold(outcome, index) for index, outcome in enumerate(outcomes)]
    signs: list[Signs] = [Signs()] * len(outcomes)
    for fold in range(FOLDS):
        section = _expecting([outcome for outcome, its in zip(outcomes, folds, strict=True) if its != fold], plain)
        for index, outcome in enumerate(outcomes):
            if folds[index] == fold:
                signs[index] = read_signs(outcome.question, section)
    sums = [0.0] * len(outcomes)
    for fold in range(FOLDS):
        rest = [index for index, its in enumerate(folds) if its != fold]
        weighed = weigh([signs[index] for index in rest], [right[index] for index in rest], plain)
        for index, its in enumerate(folds):
            if its == fold:
                sums[index] = weighed.sum(signs[index])
    scores = [0.0] * len(outcomes)
    for fold in range(FOLDS):
        rest = [index for index, its in enumerate(folds) if its != fold]
        points = isotonic([sums[index] for index in rest], [right[index] for index in rest])
        for index, its in enumerate(folds):
            if its == fold:
                scores[index] = calibrated(points, sums[index])
    formula = replace(weigh(signs, right, plain), calibration=isotonic(sums, right))
    section = replace(_expecting(outcomes, formula), target=target, task=task)
    return Fitted(section, tuple(right), tuple(signs), tuple(scores))


def _fold(outcome: Outcome, index: int) -> int:
    return zlib.crc32((outcome.group or str(index)).encode()) % FOLDS


def _expecting(outcomes: Sequence[Outcome], formula: Formula) -> Section:
    """Return what right answers among `outcomes` make expected."""
    good = [outcome.question for outcome in outcomes if outcome.right]
    lengths = [log_length(question.answer.text) for question in good]
    spread = max(statistics.pstdev(lengths), _SHORTEST_SPREAD) if lengths else 0.0
    prompts = [question.prompt for question in good if question.prompt]
    return Section(
        formula,
        expectation=Expectation(statistics.fmean(lengths), spread) if lengths else None,
        reference=Reference.of(prompts) if prompts else None,
    )


def weigh(signs: Sequence[Signs], right: Sequence[bool], plain: Formula) -> Formula:
    """Return the weights that `signs` speak for, not calibrated. A feature that none has keeps its plain weight."""
    told = [features(each) for each in signs]
    used = [name for name in FEATURES if any(name in each for each in told)]
    rows = [[1.0, *(each.get(name, 0.0) for name in used)] for each in told]
    prior = [plain.intercept, *(plain.weights.get(name, 0.0) for name in used)]
    found = fitted(rows, right, prior, precision=[1e-3, *(PRECISION for _ in used)])
    return Formula(found[0], dict(plain.weights) | dict(zip(used, found[1:], strict=True)))
