"""How early wrong answers are stopped, over real schemas, and what it costs to watch an answer on its way.

The schemas are those of the folder that SPILLWAY_DATA names; without it there is nothing to measure.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jsonschema_rs

from bench.earliest import earliest
from bench.load import percentile
from services.validator.judgement import Judge
from services.validator.settings import JudgementSettings
from services.validator.verdict import Answer, Constraint
from services.validator.watch import Watch

TOKEN_CHARS = 4


@dataclass(slots=True)
class Early:
    """What came of it."""

    repair: bool
    """Broken JSON may be mended."""
    right: int = 0
    refused: int = 0
    """Of the right ones."""
    wrong: int = 0
    knowable: int = 0
    """Wrong ones whose mistake can be known before their last character."""
    stopped: int = 0
    """Of these, those that were refused before it."""
    late: list[int] = field(default_factory=list)
    """Bytes between the point where a mistake can be known and the refusal, of those that were refused on their way."""
    unstopped: list[int] = field(default_factory=list)
    """Bytes from that point to the end, of the others."""
    sooner: int = 0
    """Refused before the point from which `bench.earliest` takes them for known."""
    watched_us: list[float] = field(default_factory=list)
    """CPU of watching one right answer, in pieces of a token, for each piece."""
    judged_us: list[float] = field(default_factory=list)
    """CPU of judging it whole."""

    def __str__(self) -> str:
        late = [float(one) for one in self.late]
        return "\n".join(
            (
                f"repair {'allowed' if self.repair else 'forbidden'}",
                f"  right answers, in pieces of 1 to 20 characters: {self.right}, refused {self.refused}",
                f"  wrong answers: {self.wrong}, knowable before their end {self.knowable}, "
                f"stopped before it {self.stopped} ({self.stopped / self.knowable:.1%})",
                f"  bytes read past the earliest point, of those refused on their way: {_spread(late)}; of all: "
                f"{_spread(late + [float(one) for one in self.unstopped])}; {self.sooner} were refused before it",
                f"  CPU of a piece of {TOKEN_CHARS} characters: {_spread(self.watched_us)} us; "
                f"of the judgement at the end: {_spread(self.judged_us)} us",
            )
        )


def run() -> Iterator[Early]:
    data = Path(os.environ.get("SPILLWAY_DATA", "/nowhere")) / "schema" / "real_schemas.jsonl"
    if data.exists():
        for repair in (True, False):
            yield measured(data, repair=repair)


def measured(data: Path, *, repair: bool = True) -> Early:
    """Watch every instance of every schema in `data`."""
    found, cuts = Early(repair), random.Random(7)
    for line in data.read_text().splitlines():
        row = json.loads(line)
        judge, wanted = Judge(JudgementSettings()), Constraint("json_schema", json.dumps(row["schema"]), repair=repair)
        whole = jsonschema_rs.validator_for(row["schema"], validate_formats=True)
        for test in row["tests"]:
            text = json.dumps(test["data"], ensure_ascii=cuts.random() < 0.5)
            if whole.is_valid(test["data"]):
                _right(found, judge, wanted, text, cuts)
            else:
                known = earliest(text, whole.iter_errors(test["data"]), mendable=repair)
                _wrong(found, judge.watch(wanted), text, known)
    return found


def _right(found: Early, judge: Judge, wanted: Constraint, text: str, cuts: random.Random) -> None:
    found.right += 1
    at, watch = 0, judge.watch(wanted)
    while at < len(text):
        size = cuts.randint(1, 20)
        if watch.take(text[at : at + size]) is not None:
            found.refused += 1
            break
        at += size
    pieces = [text[at : at + TOKEN_CHARS] for at in range(0, len(text), TOKEN_CHARS)]
    watch, began = judge.watch(wanted), time.process_time()
    for piece in pieces:
        watch.take(piece)
    found.watched_us.append((time.process_time() - began) / len(pieces) * 1e6)
    began = time.process_time()
    judge.judge(wanted, [Answer(text)])
    found.judged_us.append((time.process_time() - began) * 1e6)


def _wrong(found: Early, watch: Watch, text: str, known: int) -> None:
    found.wrong += 1
    after = next((at + 1 for at, char in enumerate(text) if watch.take(char) is not None), None)
    if known < len(text):
        found.knowable += 1
        found.stopped += after is not None and after < len(text)
    if after is None:
        found.unstopped.append(len(text[known:].encode()))
    else:
        found.sooner += after < known
        found.late.append(len(text[known:after].encode()))


def _spread(values: list[float]) -> str:
    return f"median {percentile(values, 0.5):.3g}, p95 {percentile(values, 0.95):.3g}"
