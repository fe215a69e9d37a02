"""A model fitted to outcomes: for each target, and each of its tasks, what is expected there and how signs are weighed.

What a sign is worth is learned from outcomes that had no part in what the sign is read against: novelty and length of
one fifth of the outcomes are read against the other four fifths.
"""

from __future__ import annotations

import statistics
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from services.validator.confidence.formula import FEATURES, NEVER_UNKNOWN, SIGNS, Formula, calibrated, features
from services.validator.confidence.isotonic import isotonic
from services.validator.confidence.measure import brier
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
CLEARLY = 0.95
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
    """Return a section for each target that has enough outcomes, and one for each of its tasks that gains by it.

    A task gains where its section's Brier score on its outcomes is clearly better than the target's, by
    cross-validation: few outcomes of one task tell less than many of all. `plain` is what weights are where outcomes
    say nothing. Raises TooFew where there is no section at all.
    """
    found, lacking = [], []
    for target in sorted({outcome.question.target for outcome in outcomes}):
        of_target = [outcome for outcome in outcomes if outcome.question.target == target]
        if not _enough(of_target):
            good = sum(outcome.right for outcome in of_target)
            lacking.append(f"{target}: {good} right, {len(of_target) - good} wrong")
            continue
        tell(f"{target}: {len(of_target)} outcomes")
        found.append(whole := _fitted(of_target, target, "", plain))
        for task in sorted({outcome.question.task for outcome in of_target} - {""}):
            places = [index for index, outcome in enumerate(of_target) if outcome.question.task == task]
            if len(places) < len(of_target) and _enough(chosen := [of_target[index] for index in places]):
                tell(f"{target}, {task}: {len(chosen)} outcomes")
                own = _fitted(chosen, target, task, plain)
                if brier(own.scores, own.right) < CLEARLY * brier([whole.scores[at] for at in places], own.right):
                    found.append(own)
                else:
                    tell(f"{target}, {task}: no better alone than with the other tasks")
    if not found:
        raise TooFew(
            f"at least {FEWEST} outcomes of one target are needed, {FEWEST_EACH} right and {FEWEST_EACH} wrong ones "
            f"among them; there are {'; '.join(lacking) or 'none'}"
        )
    for line in lacking:
        tell(f"left out, too few: {line}")
    return found


def _enough(outcomes: Sequence[Outcome]) -> bool:
    good = sum(outcome.right for outcome in outcomes)
    return len(outcomes) >= FEWEST and min(good, len(outcomes) - good) >= FEWEST_EACH


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
    """Return the weights that `signs` speak for, not calibrated.

    A sign that no outcome has keeps its plain weight. One that all have counts as their mean where it is unknown: of
    answers without it nothing was seen.
    """
    told = [features(each) for each in signs]
    counts = Counter(name for each in told for name in each)
    used = [name for name in FEATURES if counts[name] > 0 and (name in SIGNS or counts[name] < len(told))]
    rows = [[1.0, *(each.get(name, 0.0) for name in used)] for each in told]
    prior = [plain.intercept, *(plain.weights.get(name, 0.0) for name in used)]
    found = fitted(rows, right, prior, precision=[1e-3, *(PRECISION for _ in used)])
    weights = dict(plain.weights) | dict(zip(used, found[1:], strict=True))
    for sign in SIGNS:
        if sign in used and sign not in NEVER_UNKNOWN and not counts[f"no_{sign}"]:
            weights[f"no_{sign}"] = weights[sign] * statistics.fmean(each.get(sign, 0.0) for each in told)
    return Formula(found[0], weights)
