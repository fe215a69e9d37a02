"""Two programs, each a process on a node of its own, before one runtime that answers 404 to a second call."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.collisions import AT_HOME, MODEL, rig

pytestmark = pytest.mark.chaos

SECONDS = 3.0
PATIENCE_S = 60.0


def test_patient_callers_never_fail_and_never_meet_in_a_runtime_that_answers_404_to_two() -> None:
    with rig({"one": "crowd", "other": "crowd"}) as found:
        before, met = found.measured(found.runtime, MODEL, SECONDS)
        with found.nodes(PATIENCE_S) as urls:
            ways = {model: found.measured(urls, model, SECONDS) for model in (MODEL, AT_HOME)}
    failed = Counter(call.failed for call in before)
    assert met
    assert failed == {"": len(before) - met, "model_not_found": met}
    for calls, collisions in ways.values():
        assert len(calls) == len(before)
        assert Counter(call.failed for call in calls) == {"": len(before)}
        assert collisions == 0
    assert {call.target for call in ways[AT_HOME][0]} == {"local"}
