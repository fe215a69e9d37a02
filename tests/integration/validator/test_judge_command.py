"""`spillway judge` against a validator that serves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.validator.app import build
from services.validator.settings import ValidatorSettings
from spillway.cli.main import app
from spillway.testing.server import LOOPBACK

pytestmark = pytest.mark.usefixtures("logs_come_back")

POLICIES = {"brief": {"description": "short answers", "rules": [{"kind": "length", "max_words": 3}]}}


async def judged(*arguments: str, given: str = "") -> Result:
    stated = {"server": LOOPBACK, "workers": {"processes": 1}, "policies": POLICIES}
    async with build(ValidatorSettings.model_validate(stated)) as served:
        command = ["judge", *arguments, "--address", served.server.address]
        return await asyncio.to_thread(CliRunner().invoke, app, command, input=given)


async def test_an_answer_that_may_not_be_given_is_told_with_its_findings_and_the_exit_code() -> None:
    told = await judged("-", "--policy", "brief", given="one two three four")
    assert told.exit_code == 1
    assert told.stdout == "retry\nbrief.length: the answer has 4 words and is too long: give at most 3 words\n"


async def test_an_answer_is_held_to_a_schema_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps({"type": "object", "required": ["a"]}))
    told = await judged("-", "--schema", str(tmp_path / "schema.json"), "--policy", "brief", given='{"a": 1}')
    assert (told.exit_code, told.stdout) == (0, "accept\n")


async def test_without_an_answer_the_policies_are_listed() -> None:
    told = await judged()
    assert told.exit_code == 0
    assert told.stdout == "brief  short answers\n  length: Answer with at most 3 words.\n"


async def test_a_policy_that_is_not_there_is_told() -> None:
    told = await judged("-", "--policy", "bref", given="x")
    assert told.exit_code != 0
    assert "'bref' is not a policy here; there are: brief" in " ".join(told.stderr.split())


def test_an_answer_that_is_held_to_nothing_is_a_mistake() -> None:
    told = CliRunner().invoke(app, ["judge", "-", "--address", "127.0.0.1:1"], input="x")
    assert told.exit_code == 2
    assert "--policy" in told.stderr
