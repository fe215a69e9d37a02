"""Real schemas: no right answer is ever given up, and most wrong ones are as soon as that can be known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.early import measured
from bench.load import percentile

pytestmark = pytest.mark.conformance

DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere")) / "schema" / "real_schemas.jsonl"
# The schemas are others' and never copied in here: they run where SPILLWAY_DATA names them, as it does in CI.
RECORDED = pytest.mark.skipif(not DATA.exists(), reason="SPILLWAY_DATA names no folder with schemas")


@RECORDED
@pytest.mark.parametrize("repair", [True, False])
def test_no_right_answer_is_given_up_and_most_wrong_ones_are_before_they_end(repair: bool) -> None:
    found = measured(DATA, repair=repair)
    assert found.right > 1000
    assert found.refused == 0
    assert found.knowable > 1000
    assert found.stopped >= 0.9 * found.knowable, str(found)
    assert found.sooner == 0
    assert percentile([float(one) for one in found.late], 0.95) <= 4, str(found)
