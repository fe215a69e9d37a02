"""Fit a model: `python -m services.validator.confidence.fit OUTCOMES --out FILE [--picture FILE] [--name NAME]`.

Exit codes: 0 it is written, 1 the outcomes are too few or wrong, 2 a file cannot be read or written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from services.validator.confidence.artefact import PLAIN, ArtefactInvalid, written
from services.validator.confidence.artefact import read as read_model
from services.validator.confidence.fitting import Fitted, TooFew, fit
from services.validator.confidence.formula import SIGNS, features
from services.validator.confidence.measure import auroc, measured
from services.validator.confidence.outcome import OutcomeInvalid, read
from services.validator.confidence.picture import calibration_picture

THRESHOLD = 0.8


def table(found: Sequence[Fitted]) -> Iterator[str]:
    """Yield the lines of what was found, on outcomes that a section was not fitted to."""
    yield f"{'target, task':32} {'n':>6} {'right':>6} {'AUROC':>6} {'Brier':>6} {'ECE':>6}   kept at {THRESHOLD}"
    for each in found:
        told = measured(each.scores, each.right, THRESHOLD)
        precise = "none" if told.precise is None else f"{told.precise:.1%} of them right"
        yield (
            f"{_name(each):32} {told.count:6} {told.right:6.1%} {_figure(told.auroc)} {told.brier:6.3f} "
            f"{told.calibration_error:6.3f}   {told.kept:.1%}, {precise}"
        )
    yield ""
    yield "AUROC of each sign alone, where it is known (under .5: the higher, the likelier wrong)"
    yield f"{'target, task':32} " + " ".join(f"{sign:>12}" for sign in SIGNS)
    for each in found:
        yield f"{_name(each):32} " + " ".join(f"{_of_sign(each, sign):>12}" for sign in SIGNS)


def _of_sign(each: Fitted, sign: str) -> str:
    known = [
        (features(signs).get(sign, 0.0), right)
        for signs, right in zip(each.signs, each.right, strict=True)
        if asdict(signs)[sign] is not None
    ]
    return _figure(auroc([value for value, _ in known], [right for _, right in known])).strip()


def _name(each: Fitted) -> str:
    return f"{each.section.target}, {each.section.task or 'all tasks'}"[:32]


def _figure(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"


def main(arguments: Sequence[str]) -> int:
    """Fit, say how good it is, and write it."""
    parser = argparse.ArgumentParser(prog="spillway confidence fit", description=__doc__)
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--name", default="fitted")
    options = parser.parse_args(arguments)
    plain = read_model(PLAIN.read_bytes()).section("", "").formula
    try:
        with options.outcomes.open("rb") as file:
            outcomes = list(read(file))
        _tell(f"{len(outcomes)} outcomes, {sum(outcome.right for outcome in outcomes)} right")
        found = fit(outcomes, plain, _tell)
        content = written(options.name, [each.section for each in found])
        model = read_model(content)
        options.out.write_bytes(content)
        if options.picture is not None:
            curves = [(_name(each), each.scores, each.right) for each in found if not each.section.task]
            options.picture.write_text(calibration_picture("Score and outcome, by cross-validation", curves))
    except (OutcomeInvalid, TooFew, ArtefactInvalid) as error:
        _tell(f"{options.outcomes}: {error}")
        return 1
    except OSError as error:
        _tell(f"{error.filename}: {error.strerror}")
        return 2
    for line in table(found):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"\nwritten: {options.out}, {model!r}\n")
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
