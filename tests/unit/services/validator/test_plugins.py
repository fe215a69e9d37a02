"""Rules of plugins: distributions that are installed, found by entry point, and run where they can be stopped."""

from __future__ import annotations

import asyncio
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.validator.settings import ValidatorSettings, WorkerSettings
from spillway import errors, v1
from spillway.settings import SettingsError
from spillway.v1 import validator_pb2_grpc
from tests.unit.services.validator.judging import PLUGIN, asked, install, judging

ROOT = Path(__file__).parents[4]
WORKERS = WorkerSettings(processes=1, time_limit_s=1.0)
CALM = {"calm": {"rules": [{"kind": "custom", "plugin": "shouting", "options": {"most": 1}}]}}


async def test_a_rule_of_an_installed_distribution_judges_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    async with judging(CALM) as served:
        stub: Any = validator_pb2_grpc.ValidatorServiceStub(served.channel)
        (policy,) = (await stub.ListPolicies(v1.ListPoliciesRequest(), timeout=60)).policies
        calm, loud = (await served.ask(asked("OK, it is", "NO WAY", policies=("calm",)))).verdicts
    assert policy.rules[0] == v1.JudgementRule(
        name="custom",
        kind="custom",
        description="Write at most 1 words in capitals.",
        plugin="acme-rules 1.2",
    )
    assert calm.decision == v1.VERDICT_DECISION_ACCEPT
    (finding,) = loud.findings
    assert (finding.kind, finding.rule) == (v1.FINDING_KIND_CUSTOM, "calm.custom")
    assert finding.message == "the answer has 2 words in capitals; write at most 1"
    assert "Write at most 1 words in capitals." in loud.instruction


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hang", "took more than 1 s"),
        ("raise", "acme-rules 1.2 raised ValueError"),
        ("exit", "took more memory or stack than it may"),
    ],
)
async def test_a_plugin_that_fails_is_named_and_costs_one_answer_alone(
    text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    async with judging(CALM, workers=WORKERS) as served:
        with pytest.raises(errors.ConstraintUnsupported) as caught:
            await served.ask(asked(text, policies=("calm",)))
        verdicts = (await served.ask(asked("fine", text, "NOT FINE", policies=("calm",)))).verdicts
    assert [violation.field for violation in caught.value.fields] == ["policies"]
    assert caught.value.message == f"policies: rule calm.custom: {why}"
    assert [verdict.decision for verdict in verdicts] == [
        v1.VERDICT_DECISION_ACCEPT,
        v1.VERDICT_DECISION_RETRY,
        v1.VERDICT_DECISION_RETRY,
    ]
    assert verdicts[1].findings[0].message == "this answer could not be judged by this rule; answer more simply"


async def test_a_plugin_that_hangs_holds_up_no_other_judgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    workers = WorkerSettings(processes=1, time_limit_s=600, inline_work=0)
    async with judging(CALM, workers=workers) as served:
        hanging = asyncio.create_task(served.ask(asked("hang", policies=("calm",))))
        judged = await served.validate(v1.OutputConstraint(json_object=True), "{}")
        assert not hanging.done()
        hanging.cancel()
        await asyncio.wait({hanging})
    assert judged[0].decision == v1.VERDICT_DECISION_ACCEPT


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"plugin": "whisper"}, "plugin: no distribution brings 'whisper' as an entry point of spillway.rules; "),
        ({"plugin": "plain"}, "plugin: acme-rules 1.2: acme_rules:Plain is no dataclass with a method `judge`"),
        (
            {"plugin": "shouting", "options": {"least": 1}},
            "options.least: acme-rules 1.2 has no such option; it has: most",
        ),
        (
            {"plugin": "shouting", "options": {"most": "few"}},
            "options.most: acme-rules 1.2: Input should be a valid integer",
        ),
    ],
)
async def test_a_plugin_that_cannot_be_used_keeps_the_validator_from_starting(
    rule: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    with pytest.raises(SettingsError) as caught:
        async with judging({"calm": {"rules": [{"kind": "custom", **rule}]}}):
            pass
    assert str(caught.value).startswith(f"validator.policies.calm.rules[0].{told}")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_module", "plugin: acme-rules 1.2 cannot be loaded: ModuleNotFoundError"),
        ("while True: pass", "took more than 15 s to load"),
        ("import os; os._exit(3)", "ended its process while it was loaded"),
    ],
)
async def test_a_plugin_that_does_not_load_is_told_with_its_place(
    code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, code=code)
    with pytest.raises(SettingsError) as caught:
        async with judging(CALM, workers=WorkerSettings(processes=1, start_limit_s=15)):
            pass
    assert "validator.policies.calm.rules[0]" in str(caught.value)
    assert told in str(caught.value)


async def test_a_name_that_two_distributions_bring_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, name="other-rules", code=PLUGIN)
    install(tmp_path, monkeypatch)
    with pytest.raises(SettingsError, match="by more than one distribution: acme-rules, other-rules"):
        async with judging(CALM):
            pass


async def test_the_plugin_of_the_docs_is_a_whole_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = (ROOT / "docs" / "judgement.md").read_text().split("```")
    project = tomllib.loads(next(block for block in blocks if block.startswith("toml")).removeprefix("toml"))
    code = next(block for block in blocks if "class Shouting" in block).removeprefix("python")
    policies = yaml.safe_load(next(block for block in blocks if "plugin: shouting" in block).removeprefix("yaml"))
    entries = project["project"]["entry-points"]["spillway.rules"]
    install(tmp_path, monkeypatch, name=project["project"]["name"], code=code, entries=entries)
    async with judging(policies["validator"]["policies"]) as served:
        calm, loud = (await served.ask(asked("I am FINE", "GO AWAY", policies=("calm",)))).verdicts
    assert calm.decision == v1.VERDICT_DECISION_ACCEPT
    assert loud.findings[0].message == "2 words are in capitals; write at most 1 so"


async def test_the_example_of_the_docs_says_what_the_docs_say() -> None:
    blocks = (ROOT / "docs" / "judgement.md").read_text().split("```")
    place = next(place for place, block in enumerate(blocks) if "asyncio.run" in block)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", blocks[place].removeprefix("python"), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert blocks[place + 2].strip() in told.decode()  # among what the service logs


def test_the_policies_of_the_docs_are_settings() -> None:
    blocks = (ROOT / "docs" / "judgement.md").read_text().split("```")
    stated = yaml.safe_load(blocks[1].removeprefix("yaml"))["validator"]
    assert list(ValidatorSettings.model_validate(stated).policies) == ["brief", "polite", "labelled"]
