"""Watches of engines' loads: one stream to each address that local targets are at, opened again when it ends.

A watch that ends or falls silent makes the load unknown. A target that does not tell its load (another router, an older
engine) is asked again now and then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

from opentelemetry.trace import NonRecordingSpan, SpanContext

from spillway import v1
from spillway.deadline import Deadline
from spillway.errors import SpillwayError
from spillway.load import HEARTBEAT_S
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote
from spillway.telemetry import names
from spillway.v1 import engine_pb2_grpc

from .loads import Loads
from .target import Target

log = get_logger(__name__)

LASTS_S = 600.0
"""Deadline of one stream."""
SILENCE_S = 3 * HEARTBEAT_S
AGAIN_S, AGAIN_AT_MOST_S = 0.5, 30.0
_UNTRACED = NonRecordingSpan(SpanContext(1, 1, is_remote=False))
"""Nobody's request: it is not to be recorded, here or by the engine."""


class LoadWatches:
    """Keeps `loads` told. `connect` opens a channel of its own, so that a dead engine's does not delay requests."""

    def __init__(
        self, loads: Loads, connect: Callable[[str], Remote], draw: Callable[[], float] = random.random
    ) -> None:
        self._loads = loads
        self._connect = connect
        self._draw = draw
        self._names: dict[str, tuple[str, ...]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def adopt(self, targets: Iterable[Target]) -> None:
        """From now on watch the local ones of these."""
        found: dict[str, tuple[str, ...]] = {}
        for target in targets:
            if target.local and not target.unresolved:
                found[target.address] = (*found.get(target.address, ()), target.name)
        self._names = found
        for address in self._watches.keys() - found.keys():
            task = self._watches.pop(address)
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.cancel()
        for address in found.keys() - self._watches.keys():
            self._watches[address] = asyncio.create_task(self._watch(address), name=f"load of {address}")

    async def close(self) -> None:
        """End every watch."""
        self.adopt(())
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _watch(self, address: str) -> None:
        remote = self._connect(address)
        method = engine_pb2_grpc.EngineTelemetryServiceStub(remote.channel).WatchLoad
        failures = 0
        try:
            while True:
                call = Call("watch-load", Deadline.after(LASTS_S), _UNTRACED)
                why = "the stream ended"
                try:
                    async with (
                        asyncio.timeout(SILENCE_S) as silence,
                        remote.stream(method, v1.WatchLoadRequest(), call, span_name=names.WATCH_LOAD) as rpc,
                    ):
                        async for response in rpc:
                            failures = 0
                            silence.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
                            self._hear(address, response.load)
                except TimeoutError:
                    why = f"silent for {SILENCE_S:g} s"
                except SpillwayError as error:
                    why = error.message
                self._loads.hear(self._names.get(address, ()), None)
                if call.deadline.passed:
                    continue
                log.debug("load.unknown", address=address, why=why)
                await asyncio.sleep(min(AGAIN_AT_MOST_S, AGAIN_S * 2 ** min(failures, 10)) * (0.5 + self._draw()))
                failures += 1
        finally:
            await remote.close()

    def _hear(self, address: str, load: v1.Load) -> None:
        known = load.HasField("running")
        self._loads.hear(self._names.get(address, ()), load.running + load.waiting if known else None)

    def __repr__(self) -> str:
        return f"<LoadWatches {len(self._watches)}>"
