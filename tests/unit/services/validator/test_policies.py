"""Policies of judgement as callers meet them: a real server, real workers, a real channel."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import yaml

from services.validator.rules.json_value import JsonSettings
from services.validator.settings import ValidatorSettings, WorkerSettings
from spillway import errors, v1
from spillway.rpc.status import from_rpc_error
from spillway.settings import SettingsError, load
from spillway.v1 import validator_pb2_grpc
from tests.unit.services.validator.judging import asked, judging
from tests.unit.services.validator.test_app import Validator
from tests.unit.services.validator.test_stream import Stream

LABEL = {"type": "object", "properties": {"label": {"enum": ["billing", "delivery"]}}, "required": ["label"]}
POLICIES: dict[str, Any] = {
    "brief": {"description": "short answers", "rules": [{"kind": "length", "max_words": 5}]},
    "polite": {
        "rules": [
            {"kind": "forbidden", "name": "blame", "words": ["your fault"]},
            {"kind": "forbidden", "name": "leaks", "sensitive": ["card"]},
        ]
    },
    "labelled": {"rules": [{"kind": "json", "schema": LABEL}, {"kind": "length", "max_chars": 40}]},
    "strict": {"repair": "forbidden"},
    "coded": {"rules": [{"kind": "regex", "contain": r"\bCASE-\d+"}, {"kind": "choices", "values": ["CASE-1", "x"]}]},
}
one_loop = pytest.mark.asyncio(loop_scope="module")
ACCEPT, REPAIR = v1.VERDICT_DECISION_ACCEPT, v1.VERDICT_DECISION_REPAIR
RETRY, REJECT = v1.VERDICT_DECISION_RETRY, v1.VERDICT_DECISION_REJECT


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Validator]:
    """One for all that have these policies: its worker takes a second to start."""
    async with judging(POLICIES) as found:
        yield found


@one_loop
async def test_an_answer_is_held_to_all_rules_of_all_policies_and_told_what_to_keep_to(served: Validator) -> None:
    request = asked("It is YOUR FAULT, all of it, sir", "Quite so.", policies=("brief", "polite", "brief"))
    refused, accepted = (await served.ask(request)).verdicts
    assert accepted == v1.Verdict(decision=ACCEPT)
    assert refused.decision == RETRY
    assert [(finding.kind, finding.rule, finding.path) for finding in refused.findings] == [
        (v1.FINDING_KIND_LENGTH, "brief.length", ""),
        (v1.FINDING_KIND_FORBIDDEN, "polite.blame", ""),
    ]
    assert refused.instruction == (
        "Your last answer was refused:\n"
        "- the answer has 8 words and is too long: give at most 5 words\n"
        "- the answer has 'your fault', which is forbidden; leave it out\n"
        "Answer again, with the answer alone.\n"
        "Keep to this:\n"
        "- Answer with at most 5 words.\n"
        "- Leave out these words: your fault.\n"
        "- Leave out sensitive data: card."
    )


@one_loop
async def test_rules_judge_the_json_that_is_given_and_not_what_stands_around_it(served: Validator) -> None:
    long = {"label": "billing", "note": "x" * 40}
    schema = v1.OutputConstraint(json_schema=json.dumps(LABEL))
    answers = ('It is billing, as I see it: {"label": "billing"}', json.dumps(long), "no idea")
    by_rule = (await served.ask(asked(*answers, policies=("labelled",)))).verdicts
    by_both = (await served.ask(asked(*answers, policies=("brief", "labelled"), constraint=schema))).verdicts
    assert [verdict.decision for verdict in by_rule] == [REPAIR, RETRY, RETRY]
    assert by_rule[0].accepted_json == '{"label": "billing"}'
    assert [finding.rule for finding in by_rule[1].findings] == ["labelled.length"]
    assert by_rule[1].accepted_json == ""
    assert [(finding.rule, finding.kind) for finding in by_rule[2].findings] == [
        ("labelled.json", v1.FINDING_KIND_JSON_MISSING)
    ]
    assert [verdict.decision for verdict in by_both] == [REPAIR, RETRY, RETRY]
    assert [finding.rule for finding in by_both[2].findings] == ["", "labelled.json"]


@one_loop
async def test_a_policy_can_forbid_repair_of_what_others_ask_for(served: Validator) -> None:
    broken = "{'label': 'billing',}"
    mended = (await served.ask(asked(broken, policies=("labelled",)))).verdicts[0]
    refused = (await served.ask(asked(broken, policies=("labelled", "strict")))).verdicts[0]
    schema = v1.OutputConstraint(json_schema=json.dumps(LABEL))
    held = (await served.ask(asked(broken, policies=("strict",), constraint=schema))).verdicts[0]
    forbids = v1.OutputConstraint(repair=v1.REPAIR_FORBIDDEN)
    whole = (await served.ask(asked('so: {"label": "billing"}', policies=("labelled",), constraint=forbids))).verdicts
    by_caller = (await served.ask(asked(broken, policies=("labelled",), constraint=forbids))).verdicts[0]
    assert (mended.decision, mended.findings[0].kind) == (REPAIR, v1.FINDING_KIND_REPAIRED)
    assert refused.decision == held.decision == by_caller.decision == RETRY
    assert refused.findings[0].kind == v1.FINDING_KIND_JSON_MALFORMED
    assert whole[0].decision == REPAIR


@one_loop
async def test_a_form_and_a_text_rule_both_hold(served: Validator) -> None:
    verdicts = (await served.ask(asked("CASE-1", "x", "CASE-12", policies=("coded",)))).verdicts
    assert [verdict.decision for verdict in verdicts] == [ACCEPT, RETRY, RETRY]
    assert [[finding.kind for finding in verdict.findings] for verdict in verdicts[1:]] == [
        [v1.FINDING_KIND_REGEX],
        [v1.FINDING_KIND_CHOICE],
    ]


@one_loop
async def test_a_policy_that_is_not_there_is_refused_naming_those_that_are(served: Validator) -> None:
    with pytest.raises(errors.RequestInvalid, match=r"policies\[1\]: 'bref' is not a policy here") as caught:
        await served.ask(asked("x", policies=("brief", "bref")))
    with pytest.raises(errors.RequestInvalid, match="policies: has 17 entries"):
        await served.ask(asked("x", policies=("brief",) * 17))
    with pytest.raises(errors.RequestInvalid, match="constraint is empty"):
        await served.ask(asked("x", policies=()))
    assert [violation.field for violation in caught.value.fields] == ["policies[1]"]
    assert "brief, coded, labelled, polite, strict" in caught.value.message


@one_loop
async def test_the_policies_there_are_are_told_with_what_their_rules_ask_for(served: Validator) -> None:
    stub: Any = validator_pb2_grpc.ValidatorServiceStub(served.channel)
    told = await stub.ListPolicies(v1.ListPoliciesRequest(), timeout=60)
    assert [policy.name for policy in told.policies] == ["brief", "coded", "labelled", "polite", "strict"]
    assert told.policies[0] == v1.JudgementPolicy(
        name="brief",
        description="short answers",
        rules=[v1.JudgementRule(name="length", kind="length", description="Answer with at most 5 words.")],
    )
    assert [rule.name for rule in told.policies[3].rules] == ["blame", "leaks"]


@pytest.mark.parametrize(
    ("policies", "pieces", "rule"),
    [
        (("brief",), ["one two three", " four five", " six"], "brief.length"),
        (("polite",), ["It is your fa", "ult, sir"], "polite.blame"),
    ],
)
@one_loop
async def test_a_rule_that_is_broken_for_good_is_told_before_the_end(
    served: Validator, policies: tuple[str, ...], pieces: list[str], rule: str
) -> None:
    rpc = validator_pb2_grpc.ValidatorServiceStub(served.channel).ValidateStream(timeout=60)
    await rpc.write(v1.ValidateStreamRequest(policies=policies))
    stream = Stream(rpc)
    await stream.say(*pieces)
    told = await stream.told()
    assert (told.early, told.verdict.decision) == (True, RETRY)
    assert [finding.rule for finding in told.verdict.findings] == [rule]
    assert "Keep to this" in told.verdict.instruction
    assert await stream.over()


@one_loop
async def test_what_only_the_end_tells_is_judged_at_the_end_and_prose_around_json_is_not(served: Validator) -> None:
    stub: Any = validator_pb2_grpc.ValidatorServiceStub(served.channel)
    rpc = stub.ValidateStream(timeout=60)
    await rpc.write(v1.ValidateStreamRequest(policies=["brief", "labelled"]))
    stream = Stream(rpc)
    await stream.say("So here is what I have found, dear sir: ", '{"label": "billing"}')
    await stream.say("none at all", choice=1)
    await stream.end()
    await stream.end(choice=1)
    first, second = await stream.told(), await stream.told()
    rpc.cancel()
    unknown = stub.ValidateStream(timeout=60)
    await unknown.write(v1.ValidateStreamRequest(policies=["other"]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unknown.read()
    assert (first.verdict.decision, first.early) == (REPAIR, False)
    assert second.verdict.decision == RETRY
    assert from_rpc_error(caught.value).fields[0].field == "policies[0]"


@one_loop
async def test_long_texts_are_judged_by_a_worker_as_they_are_at_once(served: Validator) -> None:
    long = "word " * 20_000
    answers = (long + "your fault", long + "4111 1111 1111 1111", long)
    verdicts = (await served.ask(asked(*answers, policies=("polite",)))).verdicts
    assert [[finding.rule for finding in verdict.findings] for verdict in verdicts] == [
        ["polite.blame"],
        ["polite.leaks"],
        [],
    ]


def settings_of(tmp_path: Path, policies: Any) -> ValidatorSettings:
    path = tmp_path / "mesh.yaml"
    path.write_text(yaml.safe_dump({"validator": {"policies": policies}}))
    return load("validator", ValidatorSettings, path=path, environ={})


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"kind": "length", "max_words": -1}, "rules[0].max_words: Input should be greater than or equal to 0"),
        ({"kind": "length", "max_word": 1}, "rules[0].max_word: unknown setting"),
        ({"kind": "length"}, "rules[0]: Value error, give at least one bound"),
        ({"kind": "json", "schema": {"type": "text"}}, "rules[0].schema: Value error, constraint.json_schema: "),
        ({"kind": "json", "schema_file": "not-there.json"}, "rules[0]: Value error, cannot read schema_file"),
        ({"kind": "regex", "match": "(?=a)"}, "rules[0].match: Value error, look-around"),
        ({"kind": "regex"}, "rules[0]: Value error, give `match` or `contain`"),
        ({"kind": "choices", "values": []}, "rules[0].values: "),
        ({"kind": "forbidden", "patterns": ["("]}, "rules[0].patterns: Value error, is not a regular expression"),
        ({"kind": "colour"}, "rules[0]: `kind` is one of json, regex"),
        ({"max_words": 1}, "rules[0]: `kind` is one of json, regex"),
    ],
)
def test_a_rule_that_is_wrong_is_told_with_its_path(tmp_path: Path, rule: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of(tmp_path, {"brief": {"rules": [rule]}})
    assert f"validator.policies.brief.{told}" in str(caught.value)


@pytest.mark.parametrize(
    ("policies", "told"),
    [
        ({"a b": {"rules": [{"kind": "json"}]}}, "validator.policies: Value error, 'a b' cannot be a name"),
        ({"empty": {}}, "validator.policies.empty: Value error, asks for nothing"),
        ({"twice": {"rules": [{"kind": "json"}, {"kind": "json"}]}}, "two rules are called 'json'"),
    ],
)
def test_a_policy_that_is_wrong_is_told_with_its_path(tmp_path: Path, policies: Any, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of(tmp_path, policies)
    assert told in str(caught.value)


def test_a_schema_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "label.json").write_text(json.dumps(LABEL))
    rule = {"kind": "json", "schema_file": str(tmp_path / "label.json")}
    (held,) = settings_of(tmp_path, {"labelled": {"rules": [rule]}}).policies["labelled"].rules
    assert isinstance(held, JsonSettings)
    assert held.json_schema == LABEL


def doubled(levels: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {"d0": {"type": "integer"}}
    for level in range(1, levels + 1):
        definitions[f"d{level}"] = {"allOf": [{"$ref": f"#/$defs/d{level - 1}"}] * 2}
    return {"properties": {"x": {"$ref": f"#/$defs/d{levels}"}}, "$defs": definitions}


async def test_one_answer_that_takes_too_long_does_not_lose_the_verdicts_of_the_others() -> None:
    heavy = v1.OutputConstraint(json_schema=json.dumps(doubled(40)))
    async with judging(POLICIES, workers=WorkerSettings(processes=1, time_limit_s=0.5)) as served:
        told = await served.ask(asked('{"y": 1}', '{"x": 1}', "none", policies=(), constraint=heavy))
        with pytest.raises(errors.ConstraintUnsupported):
            await served.ask(asked(*['{"x": 1}'] * 64, policies=(), constraint=heavy))
    good, bad, other = told.verdicts
    assert good.decision == ACCEPT
    assert (bad.decision, bad.findings[0].message) == (
        RETRY,
        "this answer takes too long to judge; answer more briefly",
    )
    assert other.findings[0].kind == v1.FINDING_KIND_JSON_MISSING


async def test_a_schema_of_a_policy_refers_to_those_of_the_settings_alone(tmp_path: Path) -> None:
    (tmp_path / "label.json").write_text(json.dumps(LABEL))
    policies = {"known": {"rules": [{"kind": "json", "schema": {"$ref": "https://x.example/label"}}]}}
    async with judging(policies, schemas={"https://x.example/label": str(tmp_path / "label.json")}) as served:
        told = await served.ask(asked('{"label": "billing"}', '{"label": "refund"}', policies=("known",)))
        assert [verdict.decision for verdict in told.verdicts] == [ACCEPT, RETRY]
    with pytest.raises(SettingsError, match=r"^validator\.policies\.known\.rules\[0\]\.schema: at '/\$ref': .*remote"):
        async with judging(policies):
            pass


@pytest.mark.parametrize(("policy", "records"), [("labelled", []), ("polite", []), ("strict", [1])])
@one_loop
async def test_records_are_not_told_before_the_rules_of_a_policy_have_judged_the_whole(
    served: Validator, policy: str, records: list[int]
) -> None:
    rows = v1.OutputConstraint(json_schema=json.dumps({"type": "array", "items": {"type": "string"}}))
    rpc = validator_pb2_grpc.ValidatorServiceStub(served.channel).ValidateStream(timeout=60)
    await rpc.write(v1.ValidateStreamRequest(constraint=rows, policies=[policy], records=True))
    open = Stream(rpc)
    await open.say('["it is your fault"', "]")
    await open.end()
    told = [await open.told() for _ in range(len(records) + 1)]
    assert [one.records.count for one in told[:-1]] == records
    assert told[-1].HasField("verdict")
    assert await open.over()


@one_loop
async def test_choices_beside_json_are_not_held_against_the_prose_around_it(served: Validator) -> None:
    choices = v1.OutputConstraint(choices=v1.Choices(values=['{"label": "billing"}']))
    answer = 'It is {"label": "billing"}'
    (whole,) = (await served.ask(asked(answer, policies=("labelled",), constraint=choices))).verdicts
    rpc = validator_pb2_grpc.ValidatorServiceStub(served.channel).ValidateStream(timeout=60)
    await rpc.write(v1.ValidateStreamRequest(constraint=choices, policies=["labelled"]))
    open = Stream(rpc)
    await open.say(answer)
    await open.end()
    told = await open.told()
    assert (told.early, told.verdict.decision, whole.decision) == (False, REPAIR, REPAIR)
    assert await open.over()
