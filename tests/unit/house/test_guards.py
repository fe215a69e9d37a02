"""The guards of tests/conftest.py bite: each rule is broken on purpose in a test run of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[2] / "conftest.py"


BROKEN = """
import asyncio, socket
from pathlib import Path

from spillway.settings import read_yaml

kept = []

def test_dials_out():
    try:
        socket.create_connection(("192.0.2.1", 443), timeout=0.1)
    except OSError:
        pass

async def test_leaves_a_task():
    kept.append(asyncio.create_task(asyncio.sleep(60), name="forgotten"))

async def test_blocks():
    read_yaml(Path(__file__))
"""


def test_leaving_the_machine_a_running_task_and_a_blocking_call_each_fail_a_test(pytester: pytest.Pytester) -> None:
    shutil.copy(CONFTEST, pytester.path / "conftest.py")
    (pytester.mkdir("unit") / "test_broken.py").write_text(BROKEN)
    result = pytester.runpytest_subprocess(
        "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist", "-o", "asyncio_mode=auto", "unit"
    )
    assert result.parseoutcomes() == {"passed": 2, "failed": 1, "errors": 2}
    told = result.stdout.str()
    assert "tried to leave this machine: socket.getaddrinfo 192.0.2.1" in told
    assert "left running" in told
    assert "forgotten" in told
    assert "BlockingError" in told
