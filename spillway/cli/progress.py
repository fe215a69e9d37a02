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
    progress = _Progress(mesh, console)
    telling = asyncio.create_task(progress.tell())
    try:
        await mesh.healthy()
        progress.name_ready()
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


class _Progress:
    """On a terminal one line that changes; elsewhere a line every few seconds."""

    def __init__(self, mesh: Mesh, console: Console) -> None:
        self._mesh = mesh
        self._console = console
        self._named: set[str] = set()
        self._began = time.monotonic()

    def name_ready(self) -> None:
        """Name the processes that have become ready since the last time."""
        for child in self._mesh.children:
            if child.ready_after_s is not None and child.name not in self._named:
                self._named.add(child.name)
                self._console.print(
                    f"  [green]✓[/] [{style_of(child.name)}]{child.name}[/] ready after {child.ready_after_s:.1f} s"
                )

    async def tell(self) -> None:
        """Say what is waited for, until cancelled."""
        said_at = self._began
        status = self._console.status("starting", spinner="dots") if self._console.is_terminal else None
        with status or contextlib.nullcontext():
            while True:
                self.name_ready()
                now = time.monotonic()
                line = f"waiting for {', '.join(self._mesh.waiting_for)} ({now - self._began:.0f} s)"
                if status is not None:
                    status.update(line)
                elif now - said_at > SAY_EVERY_S and self._mesh.waiting_for:
                    said_at = now
                    self._console.print(f"  {line}", style="dim")
                await asyncio.sleep(0.1)
