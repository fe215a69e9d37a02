"""A service as a process: one composition root, two-stage shutdown, an exit code a supervisor can act on."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from spillway import logs, settings
from spillway.leash import end_with_parent
from spillway.local_engines import GROUND, SECTION
from spillway.rpc.server import Server
from spillway.settings import ScaledSettings, ServiceSettings, SettingsError, SettingsHopeless
from spillway.supervisor import EXIT_ASKED, WORKER, Beside, Supervisor
from spillway.supervisor import EXIT_SETTINGS as EXIT_SETTINGS
from spillway.supervisor import EXIT_START as EXIT_START

GC_THRESHOLDS = (10_000, 20, 20)
"""A request makes hundreds of objects that die with it: with Python's 700 every other one paid for a collection."""

log = logs.get_logger(__name__)

EXIT_DIED = 70


class App(Protocol):
    """What a composition root builds."""

    @property
    def server(self) -> Server: ...

    async def died(self) -> str:
        """Return why this app can serve no more; never returns while it can."""
        ...


S = TypeVar("S", bound=ServiceSettings)
A = TypeVar("A", bound=App)
NewLoop = Callable[[], asyncio.AbstractEventLoop]


def main(
    section: str,
    model: type[S],
    build: Callable[[S], AbstractAsyncContextManager[A]],
    *,
    tell: Callable[[A], Mapping[str, str]] = lambda app: {},
    beside: Beside[Any] | None = None,
    loop: NewLoop | None = None,
) -> None:
    """Run service `section` until a signal comes, an operator stops it, or it dies; then exit.

    Exit codes: 0 after a signal or an operator's word, 2 for settings that are wrong or that this machine cannot
    honour, 3 if it could not start, 70 if it died. Of several workers one that dies is started again; `tell` is what
    each says of its app when it is ready, and `beside` what their supervisor serves. `loop` makes the event loop that
    it serves in, where that is not asyncio's own.
    """
    if WORKER in os.environ:
        sys.exit(_work(section, build, tell, loop))
    parser = argparse.ArgumentParser(prog=f"python -m services.{section}", description=f"Spillway's {section}.")
    parser.add_argument("--config", type=Path, help="YAML file with the sections `shared` and `" + section + "`")
    if issubclass(model, ScaledSettings):
        parser.add_argument("--workers", help="processes that share its ports, or auto: as many as it may use cores")
    if section == GROUND:
        parser.add_argument("--name", help=f"which one this is of those that `{SECTION}` names")
    arguments = parser.parse_args()
    name, workers = getattr(arguments, "name", None), getattr(arguments, "workers", None)
    said = {} if workers is None else {f"{settings.PREFIX}{section.upper()}__WORKERS": workers}
    try:
        read = settings.load(section, model, path=arguments.config, environ={**os.environ, **said}, name=name)
    except SettingsError as error:
        print(f"spillway {f'{section} {name}' if name else section}: wrong settings\n{error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    logs.configure(read.logs, f"{section} {name}" if name else section)
    if isinstance(read, ScaledSettings) and read.workers > 1:
        sys.exit(asyncio.run(_supervise(read, beside)))
    with asyncio.Runner(loop_factory=loop) as runner:
        sys.exit(runner.run(_serve(build, read)))


def _work(
    section: str,
    build: Callable[[S], AbstractAsyncContextManager[A]],
    tell: Callable[[A], Mapping[str, str]],
    loop: NewLoop | None,
) -> int:
    """Run one worker of `section`, whose supervisor is at the other end of the standard input."""
    del os.environ[WORKER]  # what it starts is none
    read: S = pickle.load(sys.stdin.buffer)
    logs.configure(read.logs, section, worker=read.server.worker.number)

    def ready(app: A) -> None:
        with suppress(OSError):  # a supervisor that is gone wants no word: what is here drains
            os.write(sys.stdin.fileno(), json.dumps({"address": app.server.address, **tell(app)}).encode() + b"\n")

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(_serve(build, read, ready))


async def _supervise(read: ScaledSettings, beside: Beside[Any] | None) -> int:
    stop = asyncio.Event()
    supervisor = Supervisor(read, stop)
    _handle_signals(stop, supervisor.kill)
    end_with_parent()
    try:
        return await supervisor.run(beside)
    except SettingsError as error:
        log.error("process.not_started", why=str(error))
        return EXIT_SETTINGS
    except OSError as error:
        log.error("process.not_started", why=str(error))
        return EXIT_START


async def _serve(
    build: Callable[[S], AbstractAsyncContextManager[A]], read: S, ready: Callable[[A], None] | None = None
) -> int:
    """Serve until the end, and return the exit code. Of a worker, `ready` is told when it is."""
    stop = asyncio.Event()
    _handle_signals(stop)
    if ready is not None:
        _end_with_supervisor(stop)
    end_with_parent()
    try:
        async with build(read) as app:
            gc.collect()
            gc.freeze()  # what is here stays; collections look at the rest
            gc.set_threshold(*GC_THRESHOLDS)
            if ready is not None:
                ready(app)
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
            return 0 if stop.is_set() or ready is None else EXIT_ASKED
    except (OSError, SettingsError) as error:
        log.error("process.not_started", why=str(error))
        return EXIT_SETTINGS if isinstance(error, SettingsHopeless) else EXIT_START


def _end_with_supervisor(stop: asyncio.Event) -> None:
    """Set `stop` when the supervisor ends the standard input, or ends itself."""
    loop, link = asyncio.get_running_loop(), sys.stdin.fileno()

    def on_end() -> None:
        loop.remove_reader(link)  # it says nothing more than this
        stop.set()

    loop.add_reader(link, on_end)


def _handle_signals(stop: asyncio.Event, kill: Callable[[], None] = lambda: None) -> None:
    again = False

    def on_signal() -> None:
        nonlocal again
        if again:
            kill()
            os._exit(130)
        again = True
        stop.set()  # before the log: stderr may be gone with whoever read it
        log.info("process.stopping", again="exits at once")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
