"""Real schemas: no right answer is ever given up, and most wrong ones are before they end."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.validator.doom import Doom
from services.validator.fragments import TooMuch
from services.validator.prefix import Prefix
from services.validator.schema import Schema

pytestmark = pytest.mark.conformance

DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere")) / "schema" / "real_schemas.jsonl"
# The schemas are others' and never copied in here: they run where SPILLWAY_DATA names them, as it does in CI.
RECORDED = pytest.mark.skipif(not DATA.exists(), reason="SPILLWAY_DATA names no folder with schemas")


def instances() -> Iterator[tuple[Schema, Any, str]]:
    for line in DATA.read_text().splitlines():
        row = json.loads(line)
        schema = Schema(json.dumps(row["schema"]))
        for test in row["tests"]:
            yield schema, test["data"], row["name"]


def given_up_after(schema: Schema, text: str, cuts: random.Random | None = None) -> int | None:
    """Characters of `text` that were read when nothing could make it right any more; None where that never came.

    It comes in pieces of 1 to 20, or one by one without `cuts`.
    """
    doom = Doom(schema.value, schema.fragments)
    prefix, at = Prefix(doom, max_depth=128), 0
    while at < len(text):
        size = cuts.randint(1, 20) if cuts else 1
        try:
            prefix.feed(text[at : at + size])
        except TooMuch:
            return None  # the end tells
        at += size
        if doom.sealed:
            return min(at, len(text))
    return None


@RECORDED
def test_no_right_answer_is_given_up_and_most_wrong_ones_are_before_they_end() -> None:
    cuts = random.Random(7)
    right = early = knowable = 0
    for schema, value, name in instances():
        text = json.dumps(value, ensure_ascii=cuts.random() < 0.5)
        if schema.accepts(value):
            right += 1
            after = given_up_after(schema, text, cuts)
            assert after is None, f"{name}: {text[:after]}"
            continue
        findings, _ = schema.findings(value, limit=1000, max_chars=300)
        # What is missing from the outermost value is known by its last bracket alone.
        if any(finding.path for finding in findings) or not isinstance(value, dict | list):
            after = given_up_after(schema, text)
            knowable += 1
            early += after is not None and after < len(text)
    assert right > 1000
    assert knowable > 1000
    assert early >= 0.9 * knowable, f"{early} of {knowable}"
