"""All breakers of one router: who may be used, who may probe, and what other routers say.

Nothing on the way of a request waits for the store, save a request that is about to probe a sick target: it takes a
lease, one short round trip. A task of its own tells hints and looks for those of others:

- A router that opens a breaker says so, and the others open theirs, unless the target has just answered them: one
  router's broken link must not take a target from all. One whose probe is answered says that too, and all that opened
  on another's word close. One that opened on failures of its own goes by its own probe.
- Probes are leased, so that few reach a sick target however many routers there are.
- Quality and Retry-After are each router's own.

While the store is away or slow, each router stands alone: its own breakers, its own probes. What it had to tell is told
when the store is back, as far as it is still so. A router that starts knows nothing of hints told and expired before.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from spillway.deadline import Clock
from spillway.errors import BreakerOpen
from spillway.logs import get_logger
from spillway.store.redis import Store, StoreUnavailable

from .bank import Bank
from .breaker import Breaker, Closed, Event, Held, Opened, Standing, State
from .breaker_hints import Hint, Hints
from .breaker_settings import BreakersSettings
from .journal import Attempt
from .observation import Observation, observe
from .probe import Probe
from .quality import Quality

log = get_logger(__name__)

ASK_AGAIN_S = 1.0
"""A router that was refused a lease asks again after so long at most: the holder may be done before its lease is."""

Listener = Callable[[Event], None]


class Breakers:
    """The breakers of one router. `store` None: it stands alone. `draw` returns a number in [0, 1)."""

    def __init__(
        self,
        settings: BreakersSettings,
        *,
        store: Store | None,
        clock: Clock,
        name: str = "",
        draw: Callable[[], float] = random.random,
        listeners: Sequence[Listener] = (),
        least: int = 1,
    ) -> None:
        """`least`: so many routers there are, seen or not."""
        self._settings = settings
        self._least = least
        self._clock = clock
        self._name = name or uuid.uuid4().hex
        self._hints = Hints(store, self._name) if store is not None else None
        self._listeners = tuple(listeners)
        self._transport = Bank(lambda target: Breaker(target, settings.transport, draw))
        self._quality = Quality(settings.quality, draw)
        self._to_tell: dict[str, bool] = {}  # target -> whether it was reset
        self._to_release: dict[str, str] = {}  # lease -> target
        self._heard: dict[str, str] = {}  # target -> id of the hint last heeded
        self._leased = 0
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._sharing: asyncio.Task[None] | None = None
        self._closed = False
        self.waiting = 0
        """Requests that wait for a change."""
        self.routers = least
        """Routers last seen, this one included."""

    def snapshot(self, kind: str = "") -> Mapping[str, Standing]:
        """How targets stand now for `kind` of work: the worse of transport and quality. Not named: `SOUND`."""
        now = self._clock()
        found = self._transport.standings(now)
        for target, standing in self._quality.standings(kind, now).items():
            found[target] = max(found.get(target, standing), standing, key=lambda each: each.severity)
        return found

    def against(self, target: str) -> Mapping[str, Standing]:
        """What is held against `target`, by kind of work; without a kind it is the transport."""
        now = self._clock()
        found = [self._transport.find(target), *self._quality.of(target, now)]
        return {each.kind: each.standing(now) for each in found if each is not None and not each.sound(now)}

    async def may_probe(self, target: str, kind: str = "", *, advice: bool = False) -> Probe | None:
        """Admit one attempt at `target`, just before it is made: the right to probe, or None where it needs none.

        Raises BreakerOpen where it may not be tried now. With `advice` (nothing else may answer) it always may.
        """
        if advice:
            return None
        now = self._clock()
        quality, transport = self._quality.find(target, kind), self._transport.find(target)
        judged, reached, lease = None, None, ""
        try:
            judged = _take(quality, now)
            reached = _take(transport, now)
            if transport is not None and reached is not None:
                lease = await self._lease(transport)
        except BaseException:
            for breaker, probe in ((quality, judged), (transport, reached)):
                if breaker is not None and probe is not None:
                    breaker.give_back(probe)
                    self._stir()
            raise
        return Probe(target, kind, reached, judged, lease) if (judged, reached) != (None, None) else None

    def settle(self, attempt: Attempt) -> None:
        """Learn from a settled attempt."""
        self.record(attempt.target.name, observe(attempt, attempt.error), probe=attempt.probe, kind=attempt.kind)

    def record(self, target: str, seen: Observation, *, probe: Probe | None = None, kind: str = "") -> None:
        """Learn what an attempt at `target` said."""
        now = self._clock()
        events = self._transport.of(target).record(
            seen.outcome,
            now,
            began=seen.began,
            retry_after_s=seen.retry_after_s,
            probe=probe.transport if probe is not None else None,
        )
        self._transport.changed(target, now)
        judged = probe.quality if probe is not None else None
        kind = kind or (probe.kind if probe is not None and judged is not None else "")
        if kind and (judged is not None or seen.accepted is not None):
            events += self._quality.record(target, kind, seen.accepted, now, began=seen.began, probe=judged)
        self._tell(events)
        if probe is not None:
            self._stir()
        if probe is not None and probe.lease:
            self._to_release[probe.lease] = target
            self._wake.set()

    def reset(self, target: str) -> None:
        """Close every breaker of `target`, here at once and on all routers when they have heard: an operator's word."""
        now = self._clock()
        self._reset(target, now, heard=False)
        self._to_tell[target] = True
        self._wake.set()

    def forget(self, targets: Iterable[str]) -> None:
        """Let go of what is known of `targets`, which are there no more."""
        for target in targets:
            self._transport.forget(target)
            self._quality.forget(target)
            self._heard.pop(target, None)
            self._to_tell.pop(target, None)
        self._stir()

    async def change(self, within_s: float) -> None:
        """Return when a request that was turned away may fare better, after `within_s` at the latest."""
        self.waiting += 1
        try:
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        except TimeoutError:
            return
        finally:
            self.waiting -= 1

    async def start(self) -> None:
        self._sharing = asyncio.create_task(self._keep_sharing(), name="breakers")

    async def close(self) -> None:
        """Stop sharing. Leases still held end by themselves."""
        self._closed = True  # a cancel alone can be lost in the store's client
        if self._sharing is not None:
            self._sharing.cancel()
            await asyncio.gather(self._sharing, return_exceptions=True)

    async def share(self) -> bool:
        """Tell what is new, then hear what is new; whether the store was there."""
        self._tell([*self._transport.advance(self._clock()), *self._quality.advance(self._clock())])
        if self._hints is None:
            return False
        try:
            await self._tell_all(self._hints)
            seen, hints = await self._hints.look()
        except StoreUnavailable:
            return False
        self.routers = max(self._least, seen)
        self._hear(hints)
        return True

    async def _keep_sharing(self) -> None:
        while not self._closed:
            await self.share()
            try:
                async with asyncio.timeout(self._settings.poll_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _lease(self, transport: Breaker) -> str:
        """Lease a probe for all routers; without the store the one taken here is enough. Raises BreakerOpen."""
        if self._hints is None or self._hints.alone:
            return ""
        lease, target = f"{self._name}:{self._leased}", transport.target
        self._leased += 1
        settings = self._settings.transport
        try:
            wait_s = await self._hints.lease(target, lease, probes=settings.probes, seconds=settings.probe_s)
        except (StoreUnavailable, asyncio.CancelledError) as error:
            self._to_release[lease] = target  # it may have been granted all the same
            self._wake.set()
            if isinstance(error, StoreUnavailable):
                return ""
            raise
        if wait_s:
            transport.bar(self._clock() + min(wait_s, ASK_AGAIN_S))
            raise _refused(transport, self._clock())
        return lease

    async def _tell_all(self, hints: Hints) -> None:
        while self._to_tell:
            target, was_reset = self._to_tell.popitem()
            standing = self._transport.of(target).standing(self._clock())
            try:
                if was_reset:
                    await hints.tell(target, "reset")
                if standing.state is State.OPEN:
                    await hints.tell(target, "open", left_s=standing.left_s, why=standing.why)
                elif standing.state is State.CLOSED and not was_reset:
                    await hints.tell(target, "closed")
            except StoreUnavailable:
                self._to_tell[target] = was_reset or self._to_tell.get(target, False)
                raise
        for lease, target in list(self._to_release.items()):  # after the hints, which bar the next where it failed
            await hints.release(target, lease)
            del self._to_release[lease]

    def _hear(self, hints: Iterable[Hint]) -> None:
        now = self._clock()
        for hint in hints:
            if hint.router == self._name or self._heard.get(hint.target) == hint.id:
                continue
            breaker = self._transport.of(hint.target)
            events: tuple[Event, ...] = ()
            if hint.state == "reset":
                self._reset(hint.target, now, heard=True)
            elif hint.state == "closed":
                events = breaker.hear_closed("it answers another router", now)
            elif hint.left_s:
                if breaker.contradicts(now, self._settings.fresh_s):
                    continue  # looked at again: what it says may yet prove true here
                events = breaker.hear_open(hint.left_s, hint.why, now)
            self._heard[hint.target] = hint.id
            self._transport.changed(hint.target, now)
            self._tell(events)

    def _reset(self, target: str, now: float, *, heard: bool) -> None:
        breaker = self._transport.of(target)
        self._tell(breaker.reset(now, heard=heard))
        for kind in list(self._quality.of(target, now)):
            self._tell(kind.reset(now, heard=heard))

    def _stir(self) -> None:
        """Have all look again who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            self._stir()
            _log(event)
            if not event.kind and isinstance(event, Opened | Closed) and not event.heard:
                self._to_tell.setdefault(event.target, False)
                self._wake.set()
            for listener in self._listeners:
                listener(event)

    def __repr__(self) -> str:
        unsound = ", ".join(f"{target} {standing.state.value}" for target, standing in self.snapshot().items())
        return f"<Breakers {unsound or 'all closed'}>"


def _take(breaker: Breaker | None, now: float) -> int | None:
    """A probe where one is needed. Raises BreakerOpen where none may go."""
    if breaker is None or breaker.standing(now).state is State.CLOSED:
        return None
    probe = breaker.take_probe(now)
    if probe is None:
        raise _refused(breaker, now)
    return probe


def _refused(breaker: Breaker, now: float) -> BreakerOpen:
    standing = breaker.standing(now)
    return BreakerOpen(
        f"{breaker.target}: {standing.objection(0.0)}", retry_after_s=standing.left_s, resource=breaker.target
    )


def _log(event: Event) -> None:
    told: dict[str, str] = {"target": event.target, **({"kind": event.kind} if event.kind else {})}
    match event:
        case Opened():
            log.warning("breaker.opened", **told, why=event.why, seconds=round(event.seconds, 1), heard=event.heard)
        case Held():
            log.warning("breaker.held", **told, seconds=round(event.seconds, 1))
        case Closed():
            log.info("breaker.closed", **told, why=event.why, heard=event.heard)
        case _:
            log.info("breaker.half_open", **told)
