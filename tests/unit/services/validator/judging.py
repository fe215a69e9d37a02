"""A validator with policies, and a plugin that is installed as any other."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.validator.app import build
from services.validator.settings import ValidatorSettings, WorkerSettings
from spillway import v1
from spillway.testing.server import LOOPBACK
from tests.unit.services.validator.test_app import Validator

PLUGIN = '''
import ctypes, os, time
from dataclasses import dataclass

@dataclass(frozen=True)
class Shouting:
    """At most so many words in capitals."""
    most: int = 0

    @property
    def description(self) -> str:
        return f"Write at most {self.most} words in capitals."

    def judge(self, text: str):
        if "hang" in text:
            while True: pass
        if "raise" in text:
            raise ValueError(text)
        if "exit" in text:
            os._exit(1)
        loud = [word for word in text.split() if word.isupper()]
        if len(loud) > self.most:
            yield f"the answer has {len(loud)} words in capitals; write at most {self.most}"

class Plain:
    pass
'''


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str = "acme-rules",
    code: str = PLUGIN,
    entries: Mapping[str, str] | None = None,
) -> None:
    """Install a distribution with entry points where worker processes find it, as pip does."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    named = entries or {"shouting": f"{module}:Shouting", "plain": f"{module}:Plain"}
    told = "".join(f"{entry} = {place}\n" for entry, place in named.items())
    (info / "entry_points.txt").write_text(f"[spillway.rules]\n{told}")
    there = os.environ.get("PYTHONPATH", str(Path(__file__).parents[4]))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{there}")


@asynccontextmanager
async def judging(
    policies: Mapping[str, Any], *, workers: WorkerSettings | None = None, **more: Any
) -> AsyncIterator[Validator]:
    """A validator whose settings state these policies."""
    settings = ValidatorSettings.model_validate(
        {"server": LOOPBACK, "workers": workers or WorkerSettings(processes=1), "policies": policies, **more}
    )
    async with build(settings) as app, grpc.aio.insecure_channel(app.server.address) as channel:
        yield Validator(app, channel)


def asked(
    *answers: str, policies: tuple[str, ...], constraint: v1.OutputConstraint | None = None
) -> v1.ValidateRequest:
    """A request that names policies."""
    told = [v1.Answer(text=text) for text in answers]
    return v1.ValidateRequest(answers=told, policies=policies, constraint=constraint)
