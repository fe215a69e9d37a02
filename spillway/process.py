"""A service as a process: one composition root, two-stage shutdown, an exit code a supervisor can act on."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from spillway import logs, settings
from spillway.leash import end_with_parent
from spillway.local_engines import GROUND, SECTION
from spillway.rpc.server import Server
from spillway.settings import ServiceSettings, SettingsError, SettingsHopeless

GC_THRESHOLDS = (10_000, 20, 20)
"""A request makes hundreds of objects that die with it: with Python's 700 every other one paid for a collection."""

log = logs.get_logger(__name__)

EXIT_SETTINGS, EXIT_START, EXIT_DIED = 2, 3, 70


class App(Protocol):
    """What a composition root builds."""

    @property
    def server(self) -> Server: ...

    async def died(self) -> str:
        """Return why this app can serve no more; never returns while it can."""
        ...


S = TypeVar("S", bound=ServiceSettings)


def main(section: str, model: type[S], build: Callable[[S], AbstractAsyncContextManager[App]]) -> None:
    """Run service `section` until a signal comes, an operator stops it, or it dies; then exit.

    Exit codes: 0 after a signal or an operator's word, 2 for settings that are wrong or that this machine cannot
    honour, 3 if it could not start, 70 if it died.
    """
    parser = argparse.ArgumentParser(prog=f"python -m services.{section}", description=f"Spillway's {section}.")
    parser.add_argument("--config", type=Path, help="YAML file with the sections `shared` and `" + section + "`")
    if section == GROUND:
        parser.add_argument("--name", help=f"which one this is of those that `{SECTION}` names")
    arguments = parser.parse_args()
    name = getattr(arguments, "name", None)
    try:
        read = settings.load(section, model, path=arguments.config, environ=os.environ, name=name)
    except SettingsError as error:
        print(f"spillway {f'{section} {name}' if name else section}: wrong settings\n{error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    logs.configure(read.logs, f"{section} {name}" if name else section)
    sys.exit(asyncio.run(_serve(build, read)))


async def _serve(build: Callable[[S], AbstractAsyncContextManager[App]], read: S) -> int:
    stop = asyncio.Event()
    _handle_signals(stop)
    end_with_parent()
    try:
        async with build(read) as app:
            gc.collect()
            gc.freeze()  # what is here stays; collections look at the rest
            gc.set_threshold(*GC_THRESHOLDS)
            dead = asyncio.create_task(app.died())
            stopped, asked = asyncio.create_task(stop.wait()), asyncio.create_task(app.server.asked_to_stop())
            await asyncio.wait({dead, stopped, asked}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            asked.cancel()
            if dead.done():
                log.error("process.died", why=dead.result())
                await app.server.health.set_ready(False, dead.result())
                await app.server.close()
                return EXIT_DIED
            dead.cancel()
            await app.server.drain()
            return 0
    except (OSError, SettingsError) as error:
        log.error("process.not_started", why=str(error))
        return EXIT_SETTINGS if isinstance(error, SettingsHopeless) else EXIT_START


def _handle_signals(stop: asyncio.Event) -> None:
    def on_signal() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()  # before the log: stderr may be gone with whoever read it
        log.info("process.stopping", again="exits at once")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
