from __future__ import annotations

import json
from typing import Any

import pytest

from services.validator.judgement import Judge
from services.validator.settings import JudgementSettings
from services.validator.verdict import Answer, Constraint, Decision, FindingKind, Verdict
from spillway.errors import ConstraintUnsupported, RequestInvalid

LABEL = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}


def judge(constraint: Constraint, text: str, *, truncated: bool = False) -> Verdict:
    (verdict,) = Judge(JudgementSettings()).judge(constraint, [Answer(text, truncated)])
    return verdict


def schema(value: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(value))


def kinds(verdict: Verdict) -> list[FindingKind]:
    return [finding.kind for finding in verdict.findings]


def test_an_answer_that_is_the_json_is_accepted() -> None:
    assert judge(schema(LABEL), ' {"label": "a"}\n') == Verdict(Decision.ACCEPT, (), '{"label": "a"}')


@pytest.mark.parametrize("answer", ['```json\n{"label": "a"}\n```', 'It is {"label": "a"}.', '\ufeff{"label": "a"}'])
def test_json_taken_out_of_fences_or_prose_is_a_repair(answer: str) -> None:
    assert judge(schema(LABEL), answer) == Verdict(Decision.REPAIR, (), '{"label": "a"}')


def test_of_several_values_the_one_that_satisfies_the_schema_counts() -> None:
    verdict = judge(schema(LABEL), 'Not [1] or {"label": "c"} but {"label": "b"}, that is {"label":"b"}')
    assert verdict == Verdict(Decision.REPAIR, (), '{"label": "b"}')


def test_of_several_that_satisfy_it_and_differ_none_is_chosen() -> None:
    verdict = judge(schema(LABEL), 'For example {"label": "b"}. My answer: {"label": "a"}')
    assert verdict.decision is Decision.RETRY
    assert "differ" in verdict.findings[0].message
    assert judge(schema({}), "[1] or [true]").decision is Decision.RETRY


def test_what_is_in_fences_counts_before_an_example_in_the_text() -> None:
    verdict = judge(schema(LABEL), 'For example {"label": "b"}.\n```json\n{"label": "a"}\n```\nNot {"label": "b"}.')
    assert verdict.accepted_json == '{"label": "a"}'


@pytest.mark.parametrize(
    "answer",
    [
        '<think>\nPerhaps {"label": "b"}?\n</think>\n\n{"label": "a"}',
        'Perhaps {"label": "b"}?\n</think>\n{"label": "a"}',
        'Perhaps\n```json\n{"label": "b"}\n```\nno. </think>\nSo: {"label": "a"}',
        '<think>Perhaps {"label": "b"}</think>\n```json\n{"label": "a"}\n```',
    ],
)
def test_a_draft_in_the_reasoning_never_wins_over_the_answer_after_it(answer: str) -> None:
    assert judge(schema(LABEL), answer) == Verdict(Decision.REPAIR, (), '{"label": "a"}')


@pytest.mark.parametrize(
    "answer", ['<think>Perhaps {"label": "b"}', '<think>Perhaps {"label": "b"}</think> I cannot say.']
)
def test_a_draft_in_the_reasoning_is_no_answer(answer: str) -> None:
    assert kinds(judge(schema(LABEL), answer)) == [FindingKind.JSON_MISSING]


def test_a_string_of_json_that_holds_json_is_taken_for_what_it_holds_unless_a_string_is_wanted() -> None:
    encoded = json.dumps('{"label": "a"}')
    assert judge(schema(LABEL), encoded) == Verdict(Decision.REPAIR, (), '{"label": "a"}')
    assert judge(schema({"type": "string"}), encoded) == Verdict(Decision.ACCEPT, (), encoded)


def test_if_none_satisfies_it_the_longest_is_told_about() -> None:
    verdict = judge(schema(LABEL), 'Not [1] but {"label": "c"}')
    assert verdict.decision is Decision.RETRY
    assert [finding.path for finding in verdict.findings] == ["/label"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("", FindingKind.JSON_MISSING),
        (" \n", FindingKind.JSON_MISSING),
        ("I cannot say.", FindingKind.JSON_MISSING),
        ('{"label": "a",}', FindingKind.JSON_MALFORMED),
        ('{"label": "a"', FindingKind.JSON_MALFORMED),
        ('"a', FindingKind.JSON_MALFORMED),
        ('{"label": NaN}', FindingKind.JSON_MALFORMED),
        ('{"label": "a", "label": "b"}', FindingKind.JSON_MALFORMED),
        ('{"label": "c"}', FindingKind.SCHEMA),
    ],
)
def test_missing_broken_and_violating_json_is_worth_a_retry(answer: str, kind: FindingKind) -> None:
    verdict = judge(schema(LABEL), answer)
    assert verdict.decision is Decision.RETRY
    assert kinds(verdict) == [kind]
    assert verdict.accepted_json == ""


def test_a_cut_answer_says_first_that_it_was_cut() -> None:
    verdict = judge(schema(LABEL), '{"label": "a"', truncated=True)
    assert verdict.decision is Decision.RETRY
    assert kinds(verdict) == [FindingKind.TRUNCATED, FindingKind.JSON_MALFORMED]


def test_a_cut_answer_whose_json_is_complete_is_accepted() -> None:
    assert judge(schema(LABEL), '{"label": "a"}', truncated=True).decision is Decision.ACCEPT
    assert judge(schema({}), "true", truncated=True).decision is Decision.ACCEPT


def test_a_number_at_the_cut_may_have_gone_on() -> None:
    verdict = judge(schema({"type": "integer"}), "12", truncated=True)
    assert verdict.decision is Decision.RETRY
    assert kinds(verdict) == [FindingKind.TRUNCATED]
    assert judge(schema({"type": "integer"}), "12").decision is Decision.ACCEPT


def test_what_no_answer_can_satisfy_is_rejected() -> None:
    assert judge(schema(False), "{}").decision is Decision.REJECT
    assert judge(schema({"allOf": [False]}), "{}").decision is Decision.REJECT
    assert judge(schema({"if": {}, "then": {"type": "null"}}), "{}").decision is Decision.RETRY


def test_any_object_will_do_for_json_object() -> None:
    anything = Constraint("json_object")
    assert judge(anything, '{"a": [1]}').decision is Decision.ACCEPT
    assert judge(anything, 'So: {"a": 1}').decision is Decision.REPAIR
    assert kinds(judge(anything, "[1]")) == [FindingKind.SCHEMA]


def test_a_choice_is_one_of_the_choices_white_space_aside() -> None:
    choices = Constraint("choices", choices=("yes", "no"))
    assert judge(choices, "yes").decision is Decision.ACCEPT
    assert judge(choices, " no\n").decision is Decision.ACCEPT
    verdict = judge(choices, "Yes")
    assert (verdict.decision, kinds(verdict)) == (Decision.RETRY, [FindingKind.CHOICE])
    assert "'yes', 'no'" in verdict.findings[0].message


def test_a_cut_choice_counts_only_if_no_longer_one_was_begun() -> None:
    choices = Constraint("choices", choices=("no", "none", "yes"))
    assert kinds(judge(choices, "no", truncated=True)) == [FindingKind.TRUNCATED]
    assert judge(choices, "yes", truncated=True).decision is Decision.ACCEPT


@pytest.mark.parametrize(
    ("expression", "answer", "decision"),
    [
        (r"\d+", "12", Decision.ACCEPT),
        (r"\d+", "12x", Decision.RETRY),
        (r"\d+", "12\n", Decision.RETRY),
        (r"a|b", "b", Decision.ACCEPT),
        (r"a|b", "ab", Decision.RETRY),
        (r"^a$", "a", Decision.ACCEPT),
        (r"(?m)^a$", "a\nb", Decision.RETRY),
        (r"(?s).*", "a\nb", Decision.ACCEPT),
        (r"\p{L}+", "\N{LATIN SMALL LETTER E WITH ACUTE}", Decision.ACCEPT),
        (r"(a+)+$", "a" * 50_000 + "!", Decision.RETRY),
    ],
)
def test_the_whole_answer_has_to_match_the_expression(expression: str, answer: str, decision: Decision) -> None:
    assert judge(Constraint("regex", expression), answer).decision is decision


def test_a_cut_answer_that_matches_may_have_gone_on() -> None:
    assert kinds(judge(Constraint("regex", r"\d+"), "12", truncated=True)) == [FindingKind.TRUNCATED]


@pytest.mark.parametrize("expression", ["(?=a)a", r"(a)\1", "(?<!b)a"])
def test_an_expression_without_a_bound_on_its_time_is_refused(expression: str) -> None:
    with pytest.raises(ConstraintUnsupported, match=r"constraint\.regex: look-around"):
        judge(Constraint("regex", expression), "a")


@pytest.mark.parametrize("expression", ["(", "a)|(b", "a{2,1}", "[z-a]"])
def test_an_invalid_expression_is_refused(expression: str) -> None:
    with pytest.raises(RequestInvalid, match=r"constraint\.regex"):
        judge(Constraint("regex", expression), "a")


@pytest.mark.parametrize(
    ("constraint", "answer", "quick"),
    [
        (schema(LABEL), '{"label": "a"}', True),
        (schema({"$ref": "#"}), "1", False),
        (schema({"pattern": "^(?!a)"}), "1", False),
        (schema({"description": "x" * 40_000}), "1", False),
        (schema(LABEL), json.dumps(list(range(5_000))), False),
        (schema(LABEL), json.dumps("x" * 70_000), False),
        (Constraint("json_object"), '{"a": 1}', True),
        (Constraint("regex", "a+"), "a", True),
        (Constraint("regex", "(a{99}){99}"), "a", False),
        (Constraint("choices", choices=("a",)), "a", True),
    ],
)
def test_it_is_known_beforehand_what_may_take_long(constraint: Constraint, answer: str, quick: bool) -> None:
    court = Judge(JudgementSettings())
    assert court.quick(constraint, [Answer(answer)], work=5_000, size=65_536) is quick
