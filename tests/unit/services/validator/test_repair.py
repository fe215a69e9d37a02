"""Broken JSON is mended, held to the schema again, and never mended where that is forbidden."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.validator.repair import mended
from spillway import v1
from tests.unit.services.validator.test_app import Validator, validator

DATA = Path(os.environ.get("SPILLWAY_DATA", "/nowhere")) / "json"
SCHEMA = json.dumps({"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]})

one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Validator]:
    """One for all: its worker takes a second to start."""
    async with validator() as found:
        yield found


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
        "{\u201clabel\u201d: \u201ca\u201d}",
        '{\u00a0"label": "a"}',
        '{\\"label\\": \\"a\\"}',
        '{"label": "a"}, "more": 1}',
        '{"label": "a" "more": 1}',
        '{"label": "a", "more": (1, 2)}',
        '{"label": "a", "more": "a\nb"}',
        '{"label": "a", "more": +07}',
        "As in [1], {label: 'a'}",
        "<think>{'label': 'b'}</think>{'label': 'a'}",
        json.dumps("{'label': 'a'}"),
        '{"label": "a", "label": "a"}',
    ],
)
@one_loop
async def test_what_models_write_wrongly_is_mended_and_said_to_be(served: Validator, text: str) -> None:
    verdict = await judged(served, text)
    assert verdict.decision == v1.VERDICT_DECISION_REPAIR
    assert json.loads(verdict.accepted_json)["label"] == "a"
    assert [finding.kind for finding in verdict.findings] == [v1.FINDING_KIND_REPAIRED]
    assert "mended" in verdict.findings[0].message


@one_loop
async def test_what_is_forbidden_cut_off_or_wrong_after_mending_is_not_accepted(served: Validator) -> None:
    for verdict in (
        await judged(served, '{"label": "a",}', allowed=False),
        await judged(served, '{"label": "a"', truncated=True),
        await judged(served, '{"label": 7,}'),
        await judged(served, "no JSON at all"),
        await judged(served, '{"label": 12}'),
    ):
        assert verdict.decision == v1.VERDICT_DECISION_RETRY
        assert verdict.instruction


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "a", "label": "b"}',
        '{"label": "a", "label": "b",}',
        '{"label": "a", "more": }',
        '{"label": "a", "more": [1, 2, ...]}',
        '{"label": "a", "more": NaN}',
        '{"label": "a", "more": undefined}',
        '{"label": "a" + "b"}',
    ],
)
@one_loop
async def test_what_could_only_be_mended_by_making_up_or_choosing_values_is_asked_for_again(
    served: Validator, text: str
) -> None:
    assert (await judged(served, text)).decision == v1.VERDICT_DECISION_RETRY


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': 'it's', 'b': 'don't'}", {"a": "it's", "b": "don't"}),
        ('{"a": "x\\_y"}', {"a": "x_y"}),
        (r'{"a": "\\_", "b": "\d+",}', {"a": "\\_", "b": "\\d+"}),
        ('{"a": "say "hi" now"}', {"a": 'say "hi" now'}),
        ('{"a": .5, "b": 5., "c": 1_000}', {"a": 0.5, "b": 5.0, "c": 1000}),
        ('{"a": 1,000}', {"a": "1,000"}),
        ('{"a": 0x1F}', {"a": "0x1F"}),
        ("(1, 2)", [1, 2]),
        (r'{"a": "\ud83d\ude00",}', {"a": "\N{GRINNING FACE}"}),
        ('{"a": 1}', {"a": 1}),
    ],
)
def test_what_is_mended_says_what_the_text_said(text: str, value: object) -> None:
    made = mended(text, max_depth=128)
    assert made is not None
    assert made.value == value
    assert made.left_out == ()


@one_loop
async def test_the_verdict_names_the_damage_its_place_and_what_was_left_out(served: Validator) -> None:
    verdict = await judged(served, "{'label': 'a', 'weight': 12 kg,}")
    assert json.loads(verdict.accepted_json) == {"label": "a", "weight": 12}
    assert verdict.findings[0].message == (
        "the JSON was broken and has been mended: single quotes (line 1, column 2), "
        "a comma that is missing (line 1, column 29), text without quotes (line 1, column 29), "
        "a comma before an end (line 1, column 31); left out: kg"
    )


@pytest.mark.parametrize("forbidden", [True, False])
@pytest.mark.conformance
# The suite is others' and never copied in here: it runs where SPILLWAY_DATA names it, as it does in CI.
@pytest.mark.skipif(not DATA.exists(), reason="SPILLWAY_DATA names no folder with cases")
@one_loop
async def test_of_the_parsing_suite_what_is_json_is_accepted_and_nothing_else_is_as_it_stands(
    served: Validator, forbidden: bool
) -> None:
    """A key given twice is the one exception: readers disagree on its value, so it is refused."""
    repair = v1.REPAIR_FORBIDDEN if forbidden else v1.REPAIR_ALLOWED
    constraint = v1.OutputConstraint(json_schema="{}", repair=repair)
    decisions: dict[str, list[v1.VerdictDecision.ValueType]] = {"accept": [], "reject": [], "either": []}
    mended = 0
    for line in (DATA / "parsing_suite.jsonl").read_text().splitlines():
        case = json.loads(line)
        text = base64.b64decode(case["base64"]).decode(errors="replace")
        if "\N{REPLACEMENT CHARACTER}" in text or "duplicated_key" in case["name"]:
            continue  # no message can hold what is not UTF-8
        (verdict,) = await served.validate(constraint, text)
        decisions[case["expect"]].append(verdict.decision)
        mended += any(finding.kind == v1.FINDING_KIND_REPAIRED for finding in verdict.findings)
    assert set(decisions["accept"]) == {v1.VERDICT_DECISION_ACCEPT}
    assert len(decisions["accept"]) == 93
    assert len(decisions["reject"]) == 175
    assert v1.VERDICT_DECISION_ACCEPT not in decisions["reject"]
    assert bool(mended) is not forbidden
    if forbidden:  # JSON that is whole, with something after it
        assert decisions["reject"].count(v1.VERDICT_DECISION_REPAIR) == 12


@pytest.mark.conformance
# The cases are others' and never copied in here: they run where SPILLWAY_DATA names them, as it does in CI.
@pytest.mark.skipif(not DATA.exists(), reason="SPILLWAY_DATA names no folder with cases")
def test_of_the_librarys_own_cases_nearly_all_become_what_was_meant() -> None:
    cases = [json.loads(line) for line in (DATA / "repair_cases.jsonl").read_text().splitlines()]
    cases = [case for case in cases if not case["kwargs"] and case["has_value"]]
    right = 0
    for case in cases:
        found, wanted = mended(case["input"], max_depth=128), case["expected_value"]
        right += found.value == wanted if found is not None else not wanted
    assert len(cases) == 219
    assert right >= 0.95 * len(cases)


def test_what_is_mended_can_travel_as_text() -> None:
    found = mended('["\\ud83d\\ude00",]', max_depth=8)
    assert found is not None
    assert (found.value, found.text) == (["\U0001f600"], '["\U0001f600"]')
    assert mended('["\\ud83d",]', max_depth=8) is None


def test_a_value_that_had_just_begun_is_not_left_out() -> None:
    assert mended("[[], [", max_depth=8) is None
    found = mended('{"a": [', max_depth=8)
    assert found is None or found.value == {"a": []}
