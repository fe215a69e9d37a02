"""Measure the bundled model through vLLM: ``python -m training.bundled_model.evaluate --model DIR --n 400``.

Answers are compared word for word (JSON: as parsed objects) at temperature 0. Writes ``evaluation.json`` beside the
weights and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.bundled_model.cases import Case, cases, follow_up_cases, long_cases
from training.bundled_model.clauses import LABELS
from training.bundled_model.corpus import FIELDS, TASKS, Turn, record
from training.bundled_model.message import HELD_OUT_TEMPLATES, UNSEEN_VALUES, Message

DEFAULT_MODEL = Path(__file__).resolve().parents[2] / "services" / "local_engine" / "bundled_model"
LONGEST_ANSWER_TOKENS = 160


@dataclass(frozen=True)
class Group:
    """Cases that are reported together."""

    name: str
    cases: list[Case]
    constrained: bool = False
    """Whether the engine is given a JSON schema of the answer."""


@dataclass
class Score:
    """What one group came to."""

    count: int = 0
    right: int = 0
    invalid_json: int = 0
    json_answers: int = 0
    field_right: dict[str, int] = field(default_factory=dict)
    field_count: dict[str, int] = field(default_factory=dict)
    certainty: list[tuple[float, bool]] = field(default_factory=list)
    """Mean log-probability of each answer's tokens, and whether it was right."""

    @property
    def share(self) -> float:
        """Share of right answers."""
        return self.right / max(self.count, 1)

    def add(self, case: Case, text: str, logprob: float) -> None:
        """Compare one answer."""
        self.count += 1
        right = text == case.answer
        if case.json_answer:
            self.json_answers += 1
            wanted = json.loads(case.answer)
            try:
                given = json.loads(text)
            except ValueError:
                given = None
                self.invalid_json += 1
            right = given == wanted
            for key, value in wanted.items():
                self.field_count[key] = self.field_count.get(key, 0) + 1
                good = isinstance(given, dict) and key in given and given[key] == value
                self.field_right[key] = self.field_right.get(key, 0) + int(good)
        self.right += int(right)
        self.certainty.append((logprob, right))

    def told_apart(self) -> float | None:
        """Chance that a right answer has a higher log-probability than a wrong one (AUROC); None if all are alike."""
        good = [value for value, right in self.certainty if right]
        bad = [value for value, right in self.certainty if not right]
        if len(good) < 5 or len(bad) < 5:
            return None
        wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad)
        return wins / (len(good) * len(bad))

    def report(self) -> dict[str, Any]:
        """For the JSON file."""
        found: dict[str, Any] = {"count": self.count, "right": self.right, "share": round(self.share, 4)}
        if self.json_answers:
            found["invalid_json"] = self.invalid_json
            found["fields"] = {key: round(self.field_right[key] / n, 4) for key, n in self.field_count.items()}
        auroc = self.told_apart()
        if auroc is not None:
            found["auroc_of_mean_logprob"] = round(auroc, 3)
        return found


def handwritten() -> list[Message]:
    """Messages written one by one instead of composed, by the author of the clauses."""
    lines = (Path(__file__).parent / "handwritten.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Message(r["message"], r["label"], "", r["name"], r["product"], r["order_id"]) for r in rows]


def groups(count: int, seed: int) -> list[Group]:
    """Everything that is measured, ``count`` cases a group."""
    found: list[Group] = []
    for split in (UNSEEN_VALUES.name, HELD_OUT_TEMPLATES.name):
        found += [Group(f"{split}/{task}", cases(split, task, count, seed)) for task in TASKS]
    some = max(count // 2, 1)
    found.append(Group("unseen_values/extract, follow-up turn", follow_up_cases(UNSEEN_VALUES.name, some, seed)))
    found.append(Group("unseen_values/extract, long (700-2,500 characters)", long_cases("extract", some, seed)))
    found.append(Group("unseen_values/classify, long (700-2,500 characters)", long_cases("classify", some, seed)))
    chosen = cases(HELD_OUT_TEMPLATES.name, "extract", some, seed + 1)
    found.append(Group("held_out_templates/extract, constrained by schema", chosen, constrained=True))
    labels = ", ".join(LABELS)
    by_hand = handwritten()
    ask_label = f"Classify this message. Labels: {labels}.\n\n"
    ask_fields = "Extract the fields as JSON: name, product, order_id, issue.\n\n"
    plain = [Case("classify", (Turn("user", ask_label + m.text),), m.label, False) for m in by_hand]
    fields = [Case("extract", (Turn("user", ask_fields + m.text),), record(m, FIELDS), True) for m in by_hand]
    found += [Group("handwritten/classify", plain), Group("handwritten/extract", fields)]
    return found


def answer_schema(case: Case) -> dict[str, Any]:
    """The schema a caller would constrain this answer with."""
    properties: dict[str, Any] = {}
    for key in json.loads(case.answer):
        labelled = key in ("issue", "label")
        properties[key] = {"type": "string", "enum": list(LABELS)} if labelled else {"type": ["string", "null"]}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def measure(model: Path, chosen: Sequence[Group]) -> dict[str, Score]:
    """Answer every case with vLLM and score the groups."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    engine = LLM(model=str(model), max_model_len=2048, enforce_eager=True, seed=0)
    scores: dict[str, Score] = {}
    for group in chosen:
        parameters = []
        for case in group.cases:
            limits = StructuredOutputsParams(json=answer_schema(case)) if group.constrained else None
            parameters.append(
                SamplingParams(temperature=0.0, max_tokens=LONGEST_ANSWER_TOKENS, logprobs=0, structured_outputs=limits)
            )
        chats: list[Any] = [
            [{"role": turn.role, "content": turn.content} for turn in case.turns] for case in group.cases
        ]
        score = scores[group.name] = Score()
        for case, output in zip(group.cases, engine.chat(chats, parameters, use_tqdm=False), strict=True):
            given = output.outputs[0]
            tokens = max(len(given.token_ids), 1)
            score.add(case, given.text, (given.cumulative_logprob or 0.0) / tokens)
    return scores


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="folder with the weights")
    parser.add_argument("--n", type=int, default=400, help="cases in a group")
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    started = time.monotonic()
    chosen = groups(options.n, options.seed)
    scores = measure(options.model, chosen)
    weights = options.model / "model.safetensors"
    report = {
        "engine": "vLLM on CPU, temperature 0",
        "seed": options.seed,
        "weights_bytes": weights.stat().st_size,
        "parameters": weights.stat().st_size // 2,
        "groups": {name: score.report() for name, score in scores.items()},
    }
    training = options.model / "training.json"
    if training.exists():
        report["training"] = json.loads(training.read_text(encoding="utf-8"))
    (options.model / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, score in scores.items():
        print(f"{name:58} {100 * score.share:5.1f} % of {score.count}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
