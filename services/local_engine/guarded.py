"""A backend behind a lease: it is called by who holds that, and by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from services.local_engine.backend import AdapterLoader, Backend, Count
from services.local_engine.lease import Lease
from services.local_engine.pace import Window
from spillway import v1
from spillway.rpc.call import Call


class Guarded:
    """Calls `backend` under `lease`. A call whose lease is lost is cancelled, even if nobody reads its answer."""

    def __init__(self, backend: Backend, lease: Lease) -> None:
        self._backend = backend
        self._lease = lease
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def context_window(self) -> int | None:
        return self._backend.context_window

    @property
    def capabilities(self) -> tuple[v1.Capability.ValueType, ...]:
        return self._backend.capabilities

    @property
    def adapters(self) -> AdapterLoader | None:
        return self._backend.adapters

    async def generate(
        self, spec: v1.GenerationSpec, call: Call, *, window: Window, whole: bool
    ) -> AsyncGenerator[v1.GenerationEvent, None]:
        # The backend is called in a task of its own: it can be cancelled while the reader of the answer takes nothing,
        # and the lease is given back when that task has ended, not when the reader has gone.
        ready: asyncio.Queue[v1.GenerationEvent | None] = asyncio.Queue()
        taken = asyncio.Event()

        async def run() -> None:
            background = spec.priority == v1.PRIORITY_BACKGROUND
            try:
                async with (
                    self._lease.held(call, background=background),
                    aclosing(self._backend.generate(spec, call, window=window, whole=whole)) as events,
                ):
                    async for event in events:
                        ready.put_nowait(event)
                        await taken.wait()  # the backend merges what comes while nobody takes
                        taken.clear()
            finally:
                ready.put_nowait(None)

        task = asyncio.create_task(run(), name="guarded-call")
        self._calls.add(task)
        task.add_done_callback(self._over)
        try:
            while (event := await ready.get()) is not None:
                yield event
                taken.set()
            await task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def embed(self, spec: v1.EmbeddingSpec, call: Call, alive: Callable[[], None]) -> v1.EmbedResponse:
        # Nobody reads while it is made: the lease can cancel the caller's own task.
        async with self._lease.held(call, background=spec.priority == v1.PRIORITY_BACKGROUND):
            return await self._backend.embed(spec, call, alive)

    async def count_tokens(self, spec: v1.GenerationSpec) -> Count:
        return await self._backend.count_tokens(spec)

    def load(self, state: v1.EngineState.ValueType) -> v1.Load:
        load = self._backend.load(state)
        load.waiting += len(self._lease.line)
        return load

    def trouble(self) -> str:
        return self._backend.trouble()

    async def changed(self) -> None:
        await self._backend.changed()

    async def died(self) -> str:
        return await self._backend.died()

    async def close(self) -> None:
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(set(self._calls))
        await self._lease.close()
        await self._backend.close()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # told to the reader, if there still is one

    def __repr__(self) -> str:
        return f"<Guarded {self._backend!r} by {self._lease!r}>"
