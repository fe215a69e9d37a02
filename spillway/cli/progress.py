"""What a start is waiting for, said while it waits."""

from __future__ import annotations

import asyncio
import contextlib
import time

from rich.console import Console

from spillway.cli.mesh import Mesh
from spillway.cli.terminal import style_of

SAY_EVERY_S = 10.0


async def until_healthy(mesh: Mesh, console: Console) -> None:
    """Wait until `mesh` is healthy, naming each process as it becomes ready. Raises ChildRefused."""
    telling = asyncio.create_task(_tell(mesh, console))
    try:
        await mesh.healthy()
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


async def _tell(mesh: Mesh, console: Console) -> None:
    """On a terminal one line that changes; elsewhere a line every few seconds."""
    began, said_at = time.monotonic(), 0.0
    told: set[str] = set()
    status = console.status("starting", spinner="dots") if console.is_terminal else None
    with status or contextlib.nullcontext():
        while True:
            for child in mesh.children:
                if child.healthy.is_set() and child.name not in told:
                    told.add(child.name)
                    console.print(f"  [green]✓[/] [{style_of(child.name)}]{child.name}[/] ready after {_age(began)}")
            waiting = mesh.waiting_for
            now = time.monotonic()
            if waiting:
                line = f"waiting for {', '.join(waiting)} ({_age(began)})"
                if status is not None:
                    status.update(line)
                elif now - began - said_at > SAY_EVERY_S:
                    said_at = now - began
                    console.print(f"  {line}", style="dim")
            await asyncio.sleep(0.1)


def _age(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
