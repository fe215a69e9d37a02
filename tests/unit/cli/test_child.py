from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from spillway.cli.child import Child, ChildRefused, Program, ended


async def always(address: str) -> bool:
    return True


async def never(address: str) -> bool:
    return False


@dataclass
class Heard:
    log: Path
    lines: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def child(self, code: str, *arguments: str, probe: Callable[..., object] = always) -> Child:
        program = Program("thing", (sys.executable, "-c", code, *arguments), "", probe)  # type: ignore[arg-type]
        return Child(
            program,
            on_line=lambda name, line: self.lines.append(line),
            tell=self.told.append,
            changed=self.changed.set,
            log=self.log,
            backoff_s=(0.01,),
        )


@pytest.fixture
def heard(tmp_path: Path) -> Heard:
    return Heard(tmp_path / "thing.log")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def test_a_process_that_dies_is_started_again_and_that_is_said(heard: Heard, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        "import pathlib,sys,time; mark = pathlib.Path(sys.argv[1])\n"
        "if mark.exists(): time.sleep(60)\n"
        "mark.touch(); print('why it died'); sys.exit(7)"
    )
    child = heard.child(code, str(mark), probe=never)
    task = asyncio.create_task(child.supervise())
    async with asyncio.timeout(20):
        while child.starts < 2:
            heard.changed.clear()
            await heard.changed.wait()
    assert "thing ended with code 7" in heard.told[0]
    assert "why it died" in heard.told[1]
    await child.stop(5)
    await task
    assert gone(child.pid)


async def test_wrong_settings_end_the_whole_with_what_was_said(heard: Heard) -> None:
    child = heard.child("import sys; print('router.targets: Field required'); sys.exit(2)", probe=never)
    with pytest.raises(ChildRefused) as refused:
        await child.supervise()
    assert refused.value.settings
    assert refused.value.last == ("router.targets: Field required",)
    assert child.starts == 1


async def test_a_process_that_never_becomes_ready_is_given_up_on(heard: Heard) -> None:
    child = heard.child("import sys; sys.exit(3)", probe=never)
    with pytest.raises(ChildRefused, match="never became ready") as refused:
        await child.supervise()
    assert not refused.value.settings
    assert child.starts == 3


async def test_stopping_ends_what_the_process_has_started_too(heard: Heard) -> None:
    code = (
        "import signal,subprocess,sys,time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)\n"
        "time.sleep(60)"
    )
    spoke = asyncio.Event()
    child = heard.child(code, probe=never)
    child._on_line = lambda name, line: (heard.lines.append(line), spoke.set())  # type: ignore[assignment, func-returns-value]
    task = asyncio.create_task(child.supervise())
    async with asyncio.timeout(20):
        await spoke.wait()
    await child.stop(0.05)
    await task
    assert gone(child.pid)
    async with asyncio.timeout(5):
        while True:
            if gone(int(heard.lines[0])):
                break
            await asyncio.sleep(0.01)


def test_ends_are_said_in_words() -> None:
    assert ended(0) == "ended with code 0"
    assert ended(-9) == "was ended by SIGKILL"
