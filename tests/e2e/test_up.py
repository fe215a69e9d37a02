"""The mesh as real processes, started and ended the way a person does it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spillway.client import connect
from spillway.errors import AllTargetsFailed

pytestmark = pytest.mark.e2e

PROMPT = "Say something."


def test_a_prompt_is_answered_by_the_local_engine_and_one_line_says_so(mesh: Any, run: Any) -> None:
    asked = run(mesh.folder, "ask", PROMPT, "--trace")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout == "a fake engine answers word by word\n"
    assert "local · first token" in asked.stderr
    for service in ("client spillway.ask", "router StreamGenerate", "local_engine StreamGenerate"):
        assert service in asked.stderr


def test_a_complex_prompt_goes_to_the_cloud_which_is_called_simulated(mesh: Any, run: Any) -> None:
    asked = run(mesh.folder, "ask", PROMPT, "--category", "complex")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("Simulated cloud answer")
    assert "openai/gpt-4o-mini (SIMULATED)" in asked.stderr
    assert "SIMULATED" in mesh.said()


def test_json_is_judged_before_it_is_printed(mesh: Any, run: Any) -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    asked = run(mesh.folder, "ask", PROMPT, "--json-schema", schema)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout == '{"a": 0}\n'  # the fake engine's words were refused, the cloud's object was not
    assert "verdict accept" in asked.stderr
    assert "local: refused by validator" in asked.stderr


def test_a_wrong_request_names_its_field_and_fails(mesh: Any, run: Any) -> None:
    asked = run(mesh.folder, "ask", PROMPT, "--max-tokens", "-1")
    assert asked.returncode == 2
    assert asked.stdout == ""
    assert "spec.sampling.max_tokens must be at least 1" in asked.stderr


def test_status_and_explain_show_the_whole_mesh(mesh: Any, run: Any) -> None:
    told = run(mesh.folder, "status")
    assert told.returncode == 0, told.stdout
    assert told.stdout.count(" ready") == 5
    assert "openai SIMULATED" in told.stdout
    plan = run(mesh.folder, "explain", PROMPT, "--local-only")
    assert plan.returncode == 0
    assert "data policy" in plan.stdout


def test_a_second_mesh_in_the_same_folder_is_refused(mesh: Any, run: Any) -> None:
    second = run(mesh.folder, "up")
    assert second.returncode == 1
    assert "runs here already" in second.stderr


@pytest.mark.chaos
async def test_when_the_engine_is_killed_the_cloud_answers_and_private_prompts_fail(
    mesh: Any, run: Any, until: Any
) -> None:
    first = mesh.state["pids"]["local_engine"]
    async with connect(mesh.state["addresses"]["router"]) as client:
        os.kill(first, signal.SIGKILL)
        answer = await client.generate(PROMPT, deadline_s=20)
        assert answer.target == "openai/gpt-4o-mini"
        *failed_first, last = answer.attempts
        assert {(attempt.target, attempt.reason) for attempt in failed_first} == {("local", "TARGET_DOWN")}
        assert last.target == "openai/gpt-4o-mini"
        assert "local" in answer.route_reason
        with pytest.raises(AllTargetsFailed) as failed:
            await client.generate(PROMPT, local_only=True, deadline_s=20)
        assert any("local" in told for name, told in failed.value.metadata.items() if name.startswith("attempt"))
        assert not any("openai" in told for told in failed.value.metadata.values())
    until(lambda: mesh.state["pids"]["local_engine"] != first, "the engine is started again")
    until(lambda: "local_engine is ready again" in mesh.said(), "the engine is ready again")
    until(lambda: run(mesh.folder, "ask", PROMPT, "--local-only").returncode == 0, "the router has reached it again")
    assert "was ended by SIGKILL; starting it again" in mesh.said()


def test_one_interrupt_ends_everything_in_order(tmp_path: Path, starts: Callable[..., Any]) -> None:
    up = starts(tmp_path)
    up.wait_ready()
    assert len(up.children()) >= 6
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(30) == 0, up.said()
    assert up.children() == set()
    assert up.state == {}
    said = up.said()
    assert said.index("router           │") < said.index("ready: router at")
    ends = {name: said.rindex(f"{name:<17}│") for name in ("router", "cloud_proxy", "validator")}
    assert ends["router"] < min(ends["cloud_proxy"], ends["validator"])
    assert said.rstrip().endswith("stopped")


@pytest.mark.chaos
def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path, starts: Callable[..., Any], until: Any) -> None:
    up = starts(tmp_path)
    up.wait_ready()
    assert len(up.children()) >= 6
    up.process.kill()
    up.process.wait()
    until(lambda: not up.children(), "every child has ended", 20)


def test_wrong_settings_are_shown_and_end_the_whole(tmp_path: Path, run: Any) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("router: {targetz: []}\n")
    ended = run(tmp_path, "up", "--config", str(config))
    assert ended.returncode == 2, ended.stderr
    assert "router.targetz: unknown setting" in ended.stderr or "cloud_proxy.providers" in ended.stderr
    assert not (tmp_path / ".spillway" / "mesh.json").exists()


@pytest.mark.engine
def test_the_demo_shows_everything_with_the_real_engine(tmp_path: Path, run: Any) -> None:
    base = str(33_000 + os.getpid() % 500 * 20)
    shown = run(tmp_path, "demo", "--port-base", base, timeout_s=180)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "Everything shown has really happened" in shown.stdout
    assert "llm_request" in shown.stdout
    assert "SIMULATED" in shown.stdout
