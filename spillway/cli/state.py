"""What runs in this folder: `.spillway/mesh.json`, written by `spillway up` for the other commands."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = ".spillway"
NAME = "mesh.json"
DEFAULT_ROUTER = "127.0.0.1:7070"


@dataclass(frozen=True, slots=True)
class Running:
    """A mesh and where its parts listen. `pids` are those of its processes as last started."""

    pid: int
    addresses: dict[str, str]
    pids: dict[str, int] = field(default_factory=dict)
    collector: str = ""
    config: str = ""
    simulated_cloud: bool = False
    ready: bool = False
    store: str = ""
    """URL of the store, where the mesh embeds one."""
    http: str = ""
    """host:port of the OpenAI-compatible edge."""

    @property
    def router(self) -> str:
        return self.addresses.get("router", DEFAULT_ROUTER)

    @property
    def alive(self) -> bool:
        """Whether the process that started it still runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def write(folder: Path, running: Running) -> None:
    """Write the state whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{NAME}.{os.getpid()}"
    partial.write_text(json.dumps(asdict(running), indent=2) + "\n")
    partial.replace(folder / NAME)


def remove(folder: Path) -> None:
    """Forget the mesh that was started by this process."""
    running = read(folder)
    if running is not None and running.pid == os.getpid():
        (folder / NAME).unlink(missing_ok=True)


def read(folder: Path) -> Running | None:
    """Return what `folder` says, or None if it says nothing that can be read."""
    try:
        return Running(**json.loads((folder / NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def find(start: Path | None = None) -> Running | None:
    """Return the mesh that runs in `start` (the current folder) or in one above it."""
    start = start or Path.cwd()
    for place in (start, *start.parents):
        running = read(place / FOLDER)
        if running is not None and running.alive:
            return running
    return None
