"""The adapters of one engine: which are loaded, who uses them, and how they come and go while it serves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from services.local_engine import adapter_source, support
from services.local_engine.adapter_source import Adapter, Shapes, wrong
from services.local_engine.backend import AdapterLoader
from services.local_engine.settings import AdapterSettings
from spillway import v1
from spillway.errors import SpillwayError
from spillway.logs import get_logger
from spillway.settings import SettingsError

log = get_logger(__name__)


@dataclass(slots=True)
class _Held:
    """A loaded adapter, and how many requests use it. `leaving`: it takes no more of them."""

    adapter: Adapter
    running: int = 0
    leaving: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)


def _unloadable(name: str, error: SpillwayError) -> SettingsError:
    return SettingsError(f"local_engine.vllm.adapters.load.{name}: {error.message}")


class Adapters:
    """Loads and unloads by name through `loader`, within the limits of `settings`; `base` is the served model.

    A name stands for one adapter as long as any request uses it: unloading refuses new ones and waits for the others.
    """

    def __init__(self, settings: AdapterSettings, loader: AdapterLoader, base: Shapes) -> None:
        self.max_loaded = settings.max_loaded
        self._settings = settings
        self._loader = loader
        self._base = base
        self._held: dict[str, _Held] = {}
        self._coming: set[str] = set()
        self._ids = itertools.count(1)
        self._changes: set[asyncio.Task[None]] = set()

    @staticmethod
    def require(settings: AdapterSettings, base: Shapes) -> None:
        """Look at what the settings name before the model `base` is loaded, which takes long. Raises SettingsError."""
        for name, path in settings.load.items():
            try:
                adapter_source.read(settings.folder, name, path, id=0, max_rank=settings.max_rank, base=base)
            except SpillwayError as error:
                raise _unloadable(name, error) from error

    @property
    def names(self) -> list[str]:
        """What a request may name now."""
        return sorted(name for name, held in self._held.items() if not held.leaving)

    def told(self, name: str = "") -> list[v1.Adapter]:
        """What is loaded, by name; or `name` alone."""
        return [
            v1.Adapter(
                name=held.adapter.name,
                path=held.adapter.path,
                rank=held.adapter.rank,
                running=held.running,
                unloading=held.leaving,
            )
            for _, held in sorted(self._held.items())
            if name in ("", held.adapter.name)
        ]

    @contextmanager
    def used(self, name: str) -> Iterator[None]:
        """Keep the adapter `name` for the block; the empty name is no adapter. Raises AdapterUnknown."""
        if not name:
            yield
            return
        held = self._find(name, "spec.adapter")
        held.running += 1
        held.idle.clear()
        try:
            yield
        finally:
            held.running -= 1
            if not held.running:
                held.idle.set()

    async def start(self) -> None:
        """Load what the settings name. Raises SettingsError."""
        for name, path in self._settings.load.items():
            try:
                await self.load(name, path)
            except SpillwayError as error:
                raise _unloadable(name, error) from error

    async def load(self, name: str, path: str) -> None:
        """Load the adapter in the folder `path`, or `name` if that is empty, below the folder of adapters.

        Raises RequestInvalid naming `name` or `path`. A caller who leaves does not end it: the engine cannot.
        """
        taken = self._held.keys() | self._coming
        if name in taken:
            raise wrong("name", f"an adapter {name} is loaded; unload it first")
        if len(taken) >= self.max_loaded:
            said = f"{len(taken)} of at most {self.max_loaded} adapters are loaded: {', '.join(sorted(taken))}"
            raise wrong("name", f"{said}; unload one first")
        self._coming.add(name)
        await self._settled(self._load(name, path))

    async def unload(self, name: str) -> None:
        """Unload `name` when the requests that use it have ended; cancelled before, it stays. Raises AdapterUnknown."""
        held = self._find(name, "name")
        held.leaving = True
        if held.running:
            try:
                await held.idle.wait()
            except asyncio.CancelledError:
                held.leaving = False
                raise
        await self._settled(self._unload(held))

    async def _load(self, name: str, path: str) -> None:
        settings = self._settings
        try:
            adapter = await asyncio.to_thread(
                adapter_source.read,
                *(settings.folder, name, path),
                id=next(self._ids),
                max_rank=settings.max_rank,
                base=self._base,
            )
            await self._loader.load(adapter)
            self._held[name] = _Held(adapter)
            log.info("adapter.loaded", adapter=name, path=adapter.path, rank=adapter.rank)
        finally:
            self._coming.discard(name)

    async def _unload(self, held: _Held) -> None:
        try:
            await self._loader.unload(held.adapter)
        except BaseException:
            held.leaving = False
            raise
        del self._held[held.adapter.name]
        log.info("adapter.unloaded", adapter=held.adapter.name)

    async def _settled(self, change: Coroutine[Any, Any, None]) -> None:
        """Return when `change` is done; who waits may leave, it goes on."""
        task = asyncio.create_task(change, name="adapter-change")
        self._changes.add(task)
        task.add_done_callback(self._over)
        await asyncio.shield(task)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # told to who asked, if still there

    def _find(self, name: str, where: str) -> _Held:
        held = self._held.get(name)
        if held is None or held.leaving:
            raise support.unknown_adapter(where, name, self.names)
        return held

    def __repr__(self) -> str:
        return f"<Adapters {len(self._held)}/{self.max_loaded} {' '.join(self.names)}>"
