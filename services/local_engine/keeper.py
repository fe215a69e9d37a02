"""A thread that loads the engine and stays as long: on Linux a child process ends with the thread it came from."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Kept = TypeVar("Kept")

REAP_EVERY_S = 0.1


class Keeper(Generic[Kept]):
    """Runs `load(abandoned)` off the event loop and holds its thread until `release`.

    Loading takes from seconds to many minutes and cannot be cancelled from outside; `abandoned` is set once nobody
    waits for it any more, and the processes it has spawned by then are killed, which makes it fail.
    """

    def __init__(self, load: Callable[[threading.Event], Kept]) -> None:
        self._load = load
        self._abandoned = threading.Event()
        self._released = threading.Event()
        self._over = threading.Event()

    async def open(self) -> Kept:
        """Return what was loaded, or raise what loading raised. Cancelled, it lets no process of the engine live on."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Kept] = loop.create_future()

        def settle(value: Kept | None, error: BaseException | None) -> None:
            if loaded.done():
                return
            if error is not None:
                loaded.set_exception(error)
            else:
                loaded.set_result(value)  # type: ignore[arg-type]

        def run() -> None:
            value, error = None, None
            try:
                value = self._load(self._abandoned)
            except BaseException as raised:
                error = raised
            self._over.set()
            if not self._abandoned.is_set():
                loop.call_soon_threadsafe(settle, value, error)
                if error is None:
                    self._released.wait()

        # A daemon, so that a process told to stop does not wait for an import to end.
        threading.Thread(target=run, name="engine-keeper", daemon=True).start()
        try:
            return await loaded
        except asyncio.CancelledError:
            self._abandoned.set()
            threading.Thread(target=self._reap, name="engine-reaper", daemon=True).start()
            raise

    def release(self) -> None:
        """Let the thread end."""
        self._released.set()

    def _reap(self) -> None:
        """Kill what loading still spawns: a process cannot exit before its children have."""
        while not self._over.wait(REAP_EVERY_S):
            for child in multiprocessing.active_children():
                child.kill()
