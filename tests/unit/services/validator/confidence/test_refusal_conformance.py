"""False alarms: texts that decline nothing, and are not taken for refusals."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from services.validator.confidence.refusal import refuses
from training.bundled_model.message import SPLITS, compose


@pytest.mark.parametrize("split", sorted(SPLITS))
def test_a_customer_who_complains_declines_nothing(split: str) -> None:
    chance = random.Random(3)
    messages = [compose(chance, SPLITS[split]).text for _ in range(500)]
    assert [message for message in messages if refuses(message)] == []


@pytest.mark.conformance
def test_of_the_routing_questions_at_most_one_in_a_thousand_is_taken_for_a_refusal() -> None:
    file = Path(os.environ.get("SPILLWAY_DATA", ""), "routing", "questions.jsonl")
    if not os.environ.get("SPILLWAY_DATA") or not file.exists():
        # The measuring data is not part of the tree.
        pytest.skip("SPILLWAY_DATA does not name the measuring data")
    with file.open() as lines:
        questions = [json.loads(line)["prompt"] for line in lines]
    assert sum(map(refuses, questions)) <= len(questions) / 1000
