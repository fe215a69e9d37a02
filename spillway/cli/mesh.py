"""All processes of a mesh on this machine, with the Valkey and the collector that it embeds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from spillway.cli import state
from spillway.cli.child import Child, ChildRefused, Probe, Program, Tell
from spillway.cli.layout import SIMULATOR, Layout, log_file
from spillway.cli.probe import Prober, listens
from spillway.store.embedded import embedded_valkey
from spillway.telemetry.collector import Collector

STOP_S = 15.0
"""Longest end of one process: what the configuration grants running calls, and a little more."""


class Mesh:
    """The processes of one layout. Made by `running`."""

    def __init__(self, layout: Layout, children: list[Child], collector: str, store: str) -> None:
        self.layout = layout
        self.children = children
        self.collector = collector
        self.store = store
        self.began = time.monotonic()
        self.said_ready = False
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    def start(self) -> None:
        """Start every process; none waits for another."""
        self._tasks = [asyncio.create_task(child.supervise(), name=child.name) for child in self.children]

    async def refused(self) -> ChildRefused:
        """Return why the mesh cannot go on; never returns while it can."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            error = task.exception()
            if isinstance(error, ChildRefused):
                return error
            if error is not None:
                raise error
        await asyncio.Event().wait()  # stopped in order
        raise AssertionError

    async def healthy(self) -> None:
        """Wait until every process answers as ready. Raises ChildRefused if one never will."""
        refused = asyncio.create_task(self.refused())
        all_healthy = asyncio.create_task(self._all_healthy())
        try:
            await asyncio.wait([refused, all_healthy], return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                raise refused.result()
        finally:
            refused.cancel()
            all_healthy.cancel()
        self.said_ready = True
        self.write_state()

    async def _all_healthy(self) -> None:
        while self.waiting_for:
            for child in self.children:
                await child.healthy.wait()

    @property
    def waiting_for(self) -> list[str]:
        return [child.name for child in self.children if not child.healthy.is_set()]

    def write_state(self) -> None:
        """Tell the other commands where everything is."""
        if self._stopped:
            return
        state.write(
            self.layout.folder,
            state.Running(
                pid=os.getpid(),
                addresses=dict(self.layout.addresses),
                pids={child.name: child.pid for child in self.children},
                collector=self.collector,
                store=self.store,
                config=str(self.layout.config),
                simulated_cloud=self.layout.simulated_cloud,
                ready=self.said_ready,
                http=self.layout.http,
            ),
        )

    async def stop(self) -> None:
        """End the router first, so that nothing is dispatched any more; then the others together."""
        first = [child for child in self.children if child.name == "router"]
        others = [child for child in self.children if child.name != "router"]
        for group in (first, others):
            await asyncio.gather(*(child.stop(STOP_S) for child in group))
        await self._forget()

    def kill(self) -> None:
        """End everything now."""
        for child in self.children:
            child.kill()

    async def _forget(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._stopped = True
        state.remove(self.layout.folder)

    def __repr__(self) -> str:
        waiting = self.waiting_for
        return f"<Mesh {'waiting for ' + ', '.join(waiting) if waiting else 'healthy'}>"


@asynccontextmanager
async def running(layout: Layout, *, on_line: Callable[[str, str], None], tell: Tell) -> AsyncIterator[Mesh]:
    """Start everything for the block; it is not healthy yet. Leaving the block ends everything.

    Raises RuntimeError where the embedded Valkey does not start.
    """
    async with AsyncExitStack() as stack:
        environ = dict(layout.environ)
        collector = store = ""
        if layout.embeds_collector:
            collector = (await stack.enter_async_context(Collector().serving())).endpoint
            environ["SPILLWAY_SHARED__TELEMETRY__OTLP_ENDPOINT"] = collector
        if layout.embeds_store:
            store = await stack.enter_async_context(embedded_valkey())
            environ["SPILLWAY_SHARED__STORE__URL"] = store
        prober = await stack.enter_async_context(Prober.open())
        layout.log_dir.mkdir(parents=True, exist_ok=True)
        mesh: Mesh | None = None

        def changed() -> None:
            if mesh is not None:
                mesh.write_state()

        children = []
        for name, command in layout.commands.items():
            probe: Probe = listens if name == SIMULATOR else prober.ready
            program = Program(name, command, layout.addresses[name], probe, environ)
            log = log_file(layout.log_dir, name)
            log.write_text("")
            children.append(Child(program, on_line=on_line, tell=tell, changed=changed, log=log))
        mesh = Mesh(layout, children, collector, store)
        mesh.start()
        try:
            yield mesh
        finally:
            await asyncio.shield(mesh.stop())
