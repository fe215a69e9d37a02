"""Watches of what servers tell of targets: one stream to each address that has such targets, opened again when it ends.

A stream that ends or falls silent makes what it told unknown. A server that does not tell (another router, an older
one) is asked again now and then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from opentelemetry.trace import NonRecordingSpan, SpanContext

from spillway.deadline import Deadline
from spillway.errors import SpillwayError
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.rpc.remote import Remote

from .target import Target

log = get_logger(__name__)

Told = TypeVar("Told")

LASTS_S = 600.0
"""Deadline of one stream."""
AGAIN_S, AGAIN_AT_MOST_S = 0.5, 30.0
_UNTRACED = NonRecordingSpan(SpanContext(1, 1, is_remote=False))
"""Nobody's request: it is not to be recorded, here or by the server."""


@dataclass(frozen=True, slots=True)
class Subject(Generic[Told]):
    """What is watched, and who is told of it."""

    name: str
    span: str
    method: Callable[[grpc.aio.Channel], grpc.aio.UnaryStreamMultiCallable[Any, Told]]
    request: Any
    silence_s: float
    """Longest time between two messages."""
    concerns: Callable[[Target], bool]
    hear: Callable[[Sequence[Target], Told], None]
    """Takes the targets at the address, and what was told there."""
    lose: Callable[[Sequence[Target]], None]
    """Nothing is known of these any more."""


class Watches(Generic[Told]):
    """Watches `subject`. `connect` opens a channel of its own, so that a dead server's does not delay requests."""

    def __init__(
        self, subject: Subject[Told], connect: Callable[[str], Remote], draw: Callable[[], float] = random.random
    ) -> None:
        self._subject = subject
        self._connect = connect
        self._draw = draw
        self._targets: dict[str, tuple[Target, ...]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def adopt(self, targets: Iterable[Target]) -> None:
        """From now on watch those of these that the subject concerns.

        An address at which there are others than before is asked anew: it may tell only what changes.
        """
        found: dict[str, tuple[Target, ...]] = {}
        for target in targets:
            if self._subject.concerns(target) and not target.unresolved:
                found[target.address] = (*found.get(target.address, ()), target)
        before, self._targets = self._targets, found
        for address, those in before.items():
            if list(map(_asked_as, those)) != list(map(_asked_as, found.get(address, ()))):
                task = self._watches.pop(address)
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
                task.cancel()
                self._subject.lose(those)
        for address in found.keys() - self._watches.keys():
            self._watches[address] = asyncio.create_task(
                self._watch(address), name=f"{self._subject.name} of {address}"
            )

    async def close(self) -> None:
        """End every watch."""
        self.adopt(())
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _watch(self, address: str) -> None:
        subject, remote = self._subject, self._connect(address)
        method = subject.method(remote.channel)
        failures = 0
        try:
            while True:
                call = Call(f"watch-{subject.name}", Deadline.after(LASTS_S), _UNTRACED)
                heard, quiet, why = False, False, "the stream ended"
                try:
                    async with (
                        asyncio.timeout(subject.silence_s) as silence,
                        remote.stream(method, subject.request, call, span_name=subject.span) as rpc,
                    ):
                        async for told in rpc:
                            heard, failures = True, 0
                            silence.reschedule(asyncio.get_running_loop().time() + subject.silence_s)
                            subject.hear(self._targets.get(address, ()), told)
                except TimeoutError:
                    quiet, why = heard, f"silent for {subject.silence_s:g} s"
                except SpillwayError as error:
                    why = error.message
                subject.lose(self._targets.get(address, ()))
                if call.deadline.passed:
                    continue
                if heard:  # of a server that does not tell, once more is no news
                    log.debug(f"{subject.name}.unknown", address=address, why=why)
                if quiet:  # it may have nothing new to tell: one that is well tells all at once
                    continue
                await asyncio.sleep(min(AGAIN_AT_MOST_S, AGAIN_S * 2 ** min(failures, 10)) * (0.5 + self._draw()))
                failures += 1
        finally:
            await remote.close()

    def __repr__(self) -> str:
        return f"<Watches of {self._subject.name} {len(self._watches)}>"


def _asked_as(target: Target) -> tuple[str, str]:
    return target.name, target.model
