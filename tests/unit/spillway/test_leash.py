from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spillway.leash import PARENT, leashed

CHILD = [sys.executable, "-m", "spillway.leash", "/bin/sleep", "60"]
PROGRAM = """
import os, subprocess, sys
from spillway.leash import leashed
child = subprocess.Popen([sys.executable, "-m", "spillway.leash", "/bin/sleep", "60"], env=leashed(dict(os.environ)))
print(child.pid, flush=True)
sys.stdin.read()
"""


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
    except FileNotFoundError:
        return ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's signal is Linux's")
def test_a_leashed_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    ends = time.monotonic() + 20
    while not command(child).startswith("/bin/sleep") and time.monotonic() < ends:
        time.sleep(0.01)
    assert command(child).startswith("/bin/sleep")

    parent.kill()
    parent.communicate()

    while command(child).startswith("/bin/sleep") and time.monotonic() < ends:
        time.sleep(0.01)
    assert not command(child).startswith("/bin/sleep")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's signal is Linux's")
def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    done = subprocess.run(CHILD, env={**os.environ, PARENT: "1"}, timeout=30, check=False)

    assert done.returncode == 0


def test_a_child_without_a_leash_runs_on() -> None:
    environ = {name: value for name, value in os.environ.items() if name != PARENT}
    done = subprocess.run(
        [sys.executable, "-m", "spillway.leash", "/bin/echo", "ran"], env=environ, capture_output=True, check=True
    )

    assert done.stdout == b"ran\n"


def test_the_leash_is_one_variable_beside_the_others() -> None:
    assert leashed({"A": "b"}) == {"A": "b", PARENT: str(os.getpid())}
