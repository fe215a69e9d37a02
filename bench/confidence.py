"""How well confidence tells right answers of the bundled model from wrong ones, on templates it was not fitted to.

Half of the outcomes fit a model, the other half is scored by it. A template that the language model does not know is in
one half only; the folder `.spillway/confidence` then holds both halves, the fitted model and the calibration curve.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.outcome_cases import asked
from bench.outcomes import engine, outcomes
from bench.row import Told
from services.validator.confidence import artefact, fitting
from services.validator.confidence.measure import measured
from services.validator.confidence.model import Model
from services.validator.confidence.outcome import read
from services.validator.confidence.picture import calibration_picture

FOLDER = Path(".spillway/confidence")
QUESTIONS = Path("routing/questions.jsonl")
EACH, FOREIGN = 330, 540
SEEDS = {"fit": 6, "test": 7}
THRESHOLD = 0.8
ALONE, FITTED = "log probabilities alone", "the fitted model"


def run() -> Iterator[Told]:
    """Ask, fit, score; per kind of question and per task. Nothing without SPILLWAY_DATA: it has foreign ones."""
    data = os.environ.get("SPILLWAY_DATA")
    if not data:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    halves = {name: FOLDER / f"{name}.jsonl" for name in SEEDS}
    with engine(FOLDER / "engine.yaml") as address:
        for name, seed in SEEDS.items():
            drawn = asked(Path(data) / QUESTIONS, EACH, FOREIGN, seed)
            rows = asyncio.run(outcomes(address, [one for one in drawn if one.tested == (name == "test")]))
            halves[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield from judged(**halves)


def judged(fit: Path, test: Path) -> Iterator[Told]:
    """Fit to one file of outcomes and tell how the model scores those of the other."""
    plain = artefact.read(artefact.PLAIN.read_bytes())
    with fit.open("rb") as file:
        found = fitting.fit(list(read(file)), plain.sections[0].formula, lambda line: print(line, flush=True))
    content = artefact.written("bundled", [each.section for each in found])
    (FOLDER / "bundled.json").write_bytes(content)
    scored = list(_scored(test.read_bytes().splitlines(), artefact.read(content)))
    curves = [(name, [row[name] for row in scored], [row["right"] for row in scored]) for name in (ALONE, FITTED)]
    title = "The bundled model, templates it was not fitted to"
    (FOLDER / "calibration.svg").write_text(calibration_picture(title, curves))
    load = "outcomes not fitted to, bundled model"
    for sign in ("kind", "task"):
        for name in dict.fromkeys(row[sign] for row in scored):
            yield _told(load, f"{sign}: {name}", [row for row in scored if row[sign] == name])
    yield _told(load, "all", scored)


def _scored(lines: Sequence[bytes], model: Model) -> Iterator[dict[str, Any]]:
    for line, outcome in zip(lines, read(lines), strict=True):
        row = json.loads(line)
        yield {
            "kind": row["kind"],
            "task": row["task"],
            "right": outcome.right,
            ALONE: math.exp(statistics.fmean(logprob for _, logprob in row["logprobs"])) if row["logprobs"] else 0.0,
            FITTED: model.score(outcome.question).score or 0.0,
        }


def _told(load: str, through: str, rows: Sequence[dict[str, Any]]) -> Told:
    right = [row["right"] for row in rows]
    before, after = (measured([row[name] for row in rows], right, THRESHOLD) for name in (ALONE, FITTED))
    return Told(load, through, before, after)
