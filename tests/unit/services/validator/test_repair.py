"""Broken JSON is mended, held to the schema again, and never mended where that is forbidden."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from services.validator.repair import mended
from spillway import v1
from tests.unit.services.validator.test_app import Validator, validator

DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere")) / "json" / "repair_cases.jsonl"
SCHEMA = json.dumps({"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]})


async def judged(served: Validator, text: str, *, allowed: bool = True, truncated: bool = False) -> v1.Verdict:
    repair = v1.REPAIR_UNSPECIFIED if allowed else v1.REPAIR_FORBIDDEN
    constraint = v1.OutputConstraint(json_schema=SCHEMA, repair=repair)
    request = v1.ValidateRequest(constraint=constraint, answers=[v1.Answer(text=text, truncated=truncated)])
    response = await served.ask(request)
    verdict: v1.Verdict = response.verdicts[0]
    return verdict


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "a",}',
        "{'label': 'a'}",
        '{"label": "a" // why\n}',
        '{"label": "a"',
        "{label: 'a', ok: True, none: None}",
        'Sure:\n```json\n{"label": "a",}\n```\n',
    ],
)
async def test_what_models_write_wrongly_is_mended_and_said_to_be(text: str) -> None:
    async with validator() as served:
        verdict = await judged(served, text)
        assert verdict.decision == v1.VERDICT_DECISION_REPAIR
        assert json.loads(verdict.accepted_json)["label"] == "a"
        assert [finding.kind for finding in verdict.findings] == [v1.FINDING_KIND_REPAIRED]
        assert "mended" in verdict.findings[0].message


async def test_what_is_forbidden_cut_off_or_wrong_after_mending_is_not_accepted() -> None:
    async with validator() as served:
        for verdict in (
            await judged(served, '{"label": "a",}', allowed=False),
            await judged(served, '{"label": "a"', truncated=True),
            await judged(served, '{"label": 7,}'),
            await judged(served, "no JSON at all"),
        ):
            assert verdict.decision == v1.VERDICT_DECISION_RETRY
            assert verdict.instruction


@pytest.mark.conformance
# The cases are others' and never copied in here: they run where SPILLWAY_DATA names them, as it does in CI.
@pytest.mark.skipif(not DATA.exists(), reason="SPILLWAY_DATA names no folder with cases")
def test_of_the_librarys_own_cases_nearly_all_become_what_was_meant() -> None:
    cases = [json.loads(line) for line in DATA.read_text().splitlines()]
    cases = [case for case in cases if not case["kwargs"] and case["has_value"]]
    right = 0
    for case in cases:
        found, wanted = mended(case["input"], max_depth=128), case["expected_value"]
        right += (found[0] if found is not None else None) == wanted or (found is None and not wanted)
    assert len(cases) == 219
    assert right >= 0.95 * len(cases)


def test_what_is_mended_can_travel_as_text() -> None:
    assert mended('["\\ud83d\\ude00",]', max_depth=8) == (["\U0001f600"], '["\U0001f600"]')
    assert mended('["\\ud83d",]', max_depth=8) is None
