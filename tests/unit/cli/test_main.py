from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spillway.cli.main import app

pytestmark = pytest.mark.usefixtures("logs_come_back")

NOBODY = ("--address", "127.0.0.1:1")


def test_the_help_names_every_command() -> None:
    told = CliRunner().invoke(app, ["--help"])
    assert told.exit_code == 0
    for command in (
        "up",
        "demo",
        "ask",
        "explain",
        "status",
        "cost",
        "providers",
        "audit",
        "inspect",
        "redact",
        "restore",
        "doctor",
        "lease",
        "adapter",
    ):
        assert f" {command} " in told.output


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, spillway.cli.main; print([name for name in ('grpc', 'pydantic', 'yaml') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.parametrize("command", ["ask", "explain"])
def test_where_nobody_answers_the_way_to_a_mesh_is_named(command: str) -> None:
    told = CliRunner().invoke(app, [command, "Hi", *NOBODY])
    assert told.exit_code == 4
    assert "nobody answers at 127.0.0.1:1" in told.stderr
    assert told.stdout == ""


def test_a_wrong_option_is_refused_before_anything_is_sent() -> None:
    told = CliRunner().invoke(app, ["ask", "Hi", "--category", "komplex", *NOBODY])
    assert told.exit_code == 2
    assert "did you mean 'complex'" in " ".join(told.stderr.split())  # lines are as wide as the terminal


def test_a_schema_file_that_is_missing_is_named(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["ask", "Hi", "--json-schema", str(tmp_path / "no.json"), *NOBODY])
    assert told.exit_code == 2
    assert "cannot read" in told.stderr


def test_the_status_of_nothing_is_no_answer_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spillway.cli.reach.DEFAULT_BASE", 1)
    told = CliRunner().invoke(app, ["status", *NOBODY])
    assert told.exit_code == 1
    assert told.stdout.count("no answer") == 4
