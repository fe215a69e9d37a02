"""`spillway up`: the whole mesh on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from rich.console import Console

from spillway.cli import state
from spillway.cli.child import ChildRefused
from spillway.cli.layout import Layout, Wanted, lay_out, log_file
from spillway.cli.loglines import readable
from spillway.cli.mesh import Mesh, running
from spillway.cli.progress import until_healthy
from spillway.cli.terminal import err, quiet, style_of
from spillway.process import EXIT_SETTINGS, EXIT_START
from spillway.settings import SettingsError

SIMULATED = "[bold black on yellow] SIMULATED [/]"
SIMULATED_WHY = "no OPENAI_API_KEY here: a program on this machine plays the cloud"


def run(wanted: Wanted) -> int:
    """Run the mesh; return the exit code.

    0 after Ctrl-C, 1 if one runs here already, 2 for wrong settings, 3 if it could not start.
    """
    quiet()
    console = err()
    found = state.read(wanted.folder)
    if found is not None and found.alive:
        console.print(f"A mesh runs here already: router {found.router}, pid {found.pid}. End it with Ctrl-C there.")
        return 1
    try:
        layout = lay_out(wanted, os.environ)
    except SettingsError as error:
        console.print("[bold red]wrong settings[/]")
        console.print(str(error), markup=False)
        return EXIT_SETTINGS
    return asyncio.run(_up(layout, console))


async def _up(layout: Layout, console: Console) -> int:
    stop = Stop(console)
    announce(layout, console)
    try:
        async with running(
            layout, on_line=lambda name, line: _show(console, name, line), tell=lambda text: console.print(text)
        ) as mesh:
            stop.kills(mesh)
            ready = asyncio.create_task(until_healthy(mesh, console))
            if await stop.comes_before(ready):
                return 0
            ready.result()
            _say_ready(mesh, console)
            refused = asyncio.create_task(mesh.refused())
            if await stop.comes_before(refused):
                return 0
            raise refused.result()
    except ChildRefused as refusal:
        return say_refused(refusal, layout.log_dir, console)
    except (OSError, RuntimeError) as error:
        console.print(f"[bold red]cannot start:[/] {error}")
        return EXIT_START
    finally:
        console.print("stopped")


class Stop:
    """What SIGINT, SIGTERM and SIGHUP ask for: the first an end in order, the second an end at once."""

    def __init__(self, console: Console) -> None:
        self._asked = asyncio.Event()
        self._console = console
        self._mesh: Mesh | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)

    def kills(self, mesh: Mesh) -> None:
        """From now on the second signal kills the processes of `mesh`."""
        self._mesh = mesh

    async def comes_before(self, task: asyncio.Task[object]) -> bool:
        """Wait for `task` or a signal; where the signal came first, cancel the task."""
        asked = asyncio.create_task(self._asked.wait())
        await asyncio.wait({asked, task}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if task.done():
            return False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True

    def _on_signal(self) -> None:
        if not self._asked.is_set():
            self._console.print("\nstopping: running requests may end first (Ctrl-C again ends them)")
            self._asked.set()
        elif self._mesh is not None:
            self._mesh.kill()


def announce(layout: Layout, console: Console) -> None:
    """Say what is about to run."""
    console.print(f"[bold]Spillway[/] starts on this machine: {', '.join(layout.commands)}")
    console.print(f"  configuration {layout.config}", style="dim")
    console.print(f"  logs {layout.log_dir}", style="dim")
    for note in layout.notes:
        console.print(f"  {note}", style="yellow")
    if layout.simulated_cloud:
        console.print(f"  {SIMULATED} {SIMULATED_WHY}")


def say_refused(refusal: ChildRefused, logs: Path, console: Console) -> int:
    """Say why the mesh could not go on; return the exit code."""
    console.print(f"[bold red]{refusal}[/]")
    for line in refusal.last:
        console.print(f"  {line}", style="dim", markup=False)
    console.print(f"whole log: {log_file(logs, refusal.name)}", style="dim")
    return EXIT_SETTINGS if refusal.settings else EXIT_START


def _say_ready(mesh: Mesh, console: Console) -> None:
    layout = mesh.layout
    console.print(f"[bold green]ready[/]: router at [bold]{layout.addresses['router']}[/]")
    for name, address in layout.addresses.items():
        if name != "router":
            console.print(f"  [{style_of(name)}]{name:<17}[/] {address}", style="dim")
    if layout.http:
        console.print(f"OpenAI-compatible: base URL [bold]http://{layout.http}/v1[/]")
    console.print(
        'In another terminal, in this folder: [bold]spillway ask "Hello, who are you?"[/]. Ctrl-C here ends it.'
    )


def _show(console: Console, name: str, line: str) -> None:
    text = readable(name, line)
    if text is not None:
        console.print(text, soft_wrap=not console.is_terminal)
