"""`spillway inspect` against a validator that serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.validator.app import build
from services.validator.settings import ValidatorSettings, WorkerSettings
from spillway.cli.main import app
from spillway.testing.server import LOOPBACK

pytestmark = pytest.mark.usefixtures("logs_come_back")


async def inspected(*arguments: str, given: bytes = b"") -> Result:
    settings = ValidatorSettings(server=LOOPBACK, workers=WorkerSettings(processes=1))
    async with build(settings) as served:
        command = ["inspect", *arguments, "--address", served.server.address]
        return await asyncio.to_thread(CliRunner().invoke, app, command, input=given)


async def test_places_and_kinds_are_printed_and_the_text_is_not(tmp_path: Path) -> None:
    (tmp_path / "mail.txt").write_text("Hi,\nmy mail is \u00e9va@b.example\n")
    told = await inspected(str(tmp_path / "mail.txt"))
    assert told.exit_code == 1
    assert told.stdout == f"{tmp_path / 'mail.txt'}:2:12: email, 13 characters\n"


async def test_a_text_without_any_is_told_by_the_exit_code() -> None:
    told = await inspected("-", given=b"nothing here")
    assert (told.exit_code, told.stdout) == (0, "")


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "text"  # its whole path may be longer than a line
    if content is not None:
        file.write_bytes(content)
    told = CliRunner().invoke(app, ["inspect", str(file), "--address", "127.0.0.1:1"])
    assert told.exit_code == 2
    assert "text" in "".join(told.stderr.replace("│", " ").split())


def test_where_no_validator_answers_it_says_so() -> None:
    told = CliRunner().invoke(app, ["inspect", "-", "--address", "127.0.0.1:1"], input=b"x")
    assert told.exit_code == 4
    assert "nobody answers at 127.0.0.1:1" in told.stderr
