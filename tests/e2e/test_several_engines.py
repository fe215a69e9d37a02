"""Two local engines of one configuration, as real processes: each answers what policy sends it, and dies alone."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spillway.cli import ports
from spillway.client import connect

pytestmark = pytest.mark.e2e

MIXED = Path(__file__).parent / "mixed_local_engine.py"
"""`large` is the real engine, `small` a fake one: two real ones take a minute to start on two cores."""
PROMPT = "Say something."
ENGINE_S = 240.0
"""A real engine starts on one core here, beside whatever else runs."""


def configured(folder: Path) -> Path:
    """A mesh of two engines without targets and without a cloud."""
    chosen = ports.choose({name: 34_700 + place for place, name in enumerate(("router", "validator", "engines"))})
    listens = {name: {"server": {"listen": f"{ports.LOOPBACK}:{port}", "drain_s": 1}} for name, port in chosen.items()}
    mesh = {
        "router": listens["router"] | {"validator": {"address": listens["validator"]["server"]["listen"]}},
        "validator": listens["validator"],
        "local_engine": {**listens["engines"], "vllm": {"max_model_len": 512, "cpu": {"kv_cache_gib": 0.25}}},
        "local_engines": {"small": {}, "large": {"share": {"cores": 1}}},
    }
    file = folder / "two.yaml"
    file.write_text(yaml.safe_dump(mesh, sort_keys=False))
    return file


async def dies_alone(up: Any, run: Any, until: Any) -> None:
    """`large` is killed: `small` answers meanwhile and stays the process it was."""
    told = run(up.folder, "status")
    assert told.returncode == 0, told.stdout
    assert "local_engine small" in told.stdout
    assert "local_engine large" in told.stdout
    pids, again = up.state["pids"], "local_engine large is ready again"
    before = up.said().count(again)  # its port may have been another's when it started first
    async with connect(up.state["addresses"]["router"]) as client:
        os.kill(pids["local_engine large"], signal.SIGKILL)
        answer = await client.generate(PROMPT, max_tokens=5, category="complex", local_only=True, deadline_s=20)
    assert answer.target == "small"
    assert "degraded" in answer.route_reason
    until(lambda: up.said().count(again) > before, "the engine is ready again", ENGINE_S)
    assert up.state["pids"]["local_engine small"] == pids["local_engine small"]
    assert up.state["pids"]["local_engine large"] != pids["local_engine large"]
    until(lambda: "large · first" in complex_answer(run, up), "the router has reached it again")
    assert "local_engine large was ended by SIGKILL; starting it again" in up.said()
    assert (up.folder / ".spillway" / "logs" / "local_engine.large.log").stat().st_size


def complex_answer(run: Any, up: Any) -> str:
    asked = run(up.folder, "ask", PROMPT, "--category", "complex", "--max-tokens", "5")
    assert asked.returncode == 0, asked.stderr
    said: str = asked.stderr
    return said


async def by_tier(up: Any) -> None:
    async with connect(up.state["addresses"]["router"]) as client:
        routine = await client.generate(PROMPT, max_tokens=5, deadline_s=60)
        complex_one = await client.generate(PROMPT, max_tokens=5, category="complex", deadline_s=60)
        assert (routine.target, complex_one.target) == ("small", "large")
        named = await client.generate(PROMPT, max_tokens=5, model="large", deadline_s=60)
        assert named.target == "large"


@pytest.mark.chaos
async def test_each_engine_answers_for_its_tier_and_one_that_dies_is_started_again_alone(
    tmp_path: Path, starts: Callable[..., Any], run: Any, until: Any
) -> None:
    up = starts(tmp_path, "--config", str(configured(tmp_path)))
    up.wait_ready()
    await by_tier(up)
    await dies_alone(up, run, until)


@pytest.mark.engine
@pytest.mark.chaos
async def test_a_real_engine_keeps_to_its_cores_beside_another_and_comes_back_alone(
    tmp_path: Path, starts: Callable[..., Any], run: Any, until: Any
) -> None:
    mixed = f"{sys.executable} {MIXED}"
    up = starts(tmp_path, "--config", str(configured(tmp_path)), "--engine-command", mixed, engine=True)
    up.wait_ready(ENGINE_S)
    await by_tier(up)
    cores = os.sched_getaffinity(up.state["pids"]["local_engine large"])
    assert len(cores) == 1 or len(os.sched_getaffinity(0)) == 1
    await dies_alone(up, run, until)


def test_engines_that_ask_for_more_than_there_is_end_the_whole_with_the_numbers(tmp_path: Path, run: Any) -> None:
    config = configured(tmp_path)
    mesh = yaml.safe_load(config.read_text())
    mesh["local_engines"]["large"]["share"]["cores"] = 4096
    config.write_text(yaml.safe_dump(mesh))
    ended = run(tmp_path, "up", "--config", str(config))
    assert ended.returncode == 2, ended.stderr
    assert "cores large 4096, small 1 or more are asked for" in ended.stderr.replace("\n", " ")
