"""The answer cache: an answer that was given before, or is being made for another, to the same request.

It is exact and never in the way: without its store, requests are answered as ever, and a new answer is kept behind the
back of those who wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from spillway import v1
from spillway.deadline import Clock
from spillway.errors import DeadlineExceeded, StreamInterrupted
from spillway.generation import Folder
from spillway.logs import get_logger
from spillway.store.redis import Store, StoreUnavailable
from spillway.telemetry import names

from .cache_entry import Entry, decode, encode, retold
from .cache_key import cache_key, epoch_of
from .cache_settings import CacheSettings
from .eligibility import Terms, objection, terms
from .facts import Delivery
from .flight import Flight
from .strategies.strategy import unfolded
from .target import Target
from .work import Work

log = get_logger(__name__)

Make = Callable[[Work], AsyncGenerator[v1.GenerationEvent]]
"""What answers a request that is not answered from here: its strategy."""
AWAY_S = 5.0
"""After a failure the store is left alone for so long: a slow store must not slow every answer."""
MAX_WRITES = 64
"""Answers being kept at once; beyond that they are not."""

FlightId = tuple[str, v1.Priority.ValueType, Delivery, bytes]


@dataclass(slots=True)
class Tally:
    """What the cache has done since its router began. Unknown savings count as nothing."""

    hits: int = 0
    shared: int = 0
    """Answers made for another request of the same moment."""
    misses: int = 0
    refreshes: int = 0
    kept: int = 0
    not_kept: int = 0
    store_failures: int = 0
    saved_tokens: int = 0
    saved_nano_usd: int = 0


class Cache:
    """Answers from `store` and from answers under way.

    `wall` is in seconds since the epoch: what is kept outlives a router.
    """

    def __init__(
        self,
        settings: CacheSettings,
        store: Store,
        *,
        clock: Clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._epoch = b""
        self._clock = clock
        self._wall = wall
        self._flights: dict[FlightId, Flight] = {}
        self._under_way: set[Flight] = set()
        self._writes = 0
        self._away_until: float | None = None
        self.tally = Tally()

    def adopt(self, targets: Iterable[Target]) -> None:
        """From now on these targets answer; with another model behind one of them, its old answers are gone."""
        self._epoch = epoch_of(targets)

    def terms(self, work: Work, *, stamped: bool) -> Terms:
        """Decide whether `work` uses the cache, and tell its span."""
        found = terms(
            work.spec,
            work.policy.cache,
            work.plan.facts.data_policy,
            stamped=stamped,
            settings=self._settings,
        )
        if found.off:
            work.call.span.set_attribute(names.CACHE, "off")
            work.call.span.set_attribute(names.CACHE_REASON, found.off)
        return found

    async def stream(self, work: Work, terms: Terms, make: Make) -> AsyncGenerator[v1.GenerationEvent]:
        """Yield the events of an answer to `work`: kept, under way for another, or made now.

        Raises what `make` raises, to all who wait for it. Nobody's deadline but the request's own ends it with
        DeadlineExceeded.
        """
        began = self._clock()
        call, given = work.call, False
        while True:
            flight, own = self._board(work, terms, make)
            try:
                async with aclosing(flight.wait(call.deadline)) as events:
                    async for event in events:
                        if not own or flight.age_s is not None:
                            took_ms = (self._clock() - began) * 1000
                            shared = flight.age_s is None
                            event = retold(
                                event, call.request_id, age_s=flight.age_s or 0.0, shared=shared, took_ms=took_ms
                            )
                        if event.HasField("usage"):
                            self._count(work, terms, event.usage)
                        given = True
                        yield event
                return
            except DeadlineExceeded:
                if own or not flight.over or call.deadline.passed:
                    raise  # the request's own; else that of the request whose flight it was
                if given:
                    raise StreamInterrupted("the identical request it was shared with ran out of time") from None

    def _board(self, work: Work, terms: Terms, make: Make) -> tuple[Flight, bool]:
        """Return the flight that carries the answer to `work`, and whether it was begun for it."""
        key = cache_key(work.spec, work.policy, work.plan, work.call.caller, self._epoch)
        left_s = work.call.deadline.left()
        # Who is promised a whole and judged answer never flies with who takes one as it comes or at another priority.
        whole = work.plan.delivery is Delivery.COMMITTED and not work.plan.records
        delivery = b"" if whole else work.policy.delivery.SerializeToString(deterministic=True)
        flight_id = key, work.spec.priority, work.plan.delivery, delivery
        flight = None if terms.refresh else self._flights.get(flight_id)
        if flight is not None and flight.takes(left_s):
            return flight, False

        async def fly(flight: Flight) -> AsyncGenerator[v1.GenerationEvent]:
            entry = None if terms.refresh else await self._look_up(key, terms.ttl_s)
            if entry is not None:
                flight.age_s = entry.age_s
                for event in unfolded(entry.answer):
                    yield event
                return
            async with aclosing(make(work)) as events:
                async for event in events:
                    yield event

        async def keep(flight: Flight) -> None:
            if flight.age_s is None:
                await self._keep(key, work, terms, flight.events)

        flight = Flight(fly, keep, left_s)
        self._under_way.add(flight)
        if not terms.refresh:
            self._flights[flight_id] = flight
        # Until then its answer is not in the store yet, and who asks now still gets it from here.
        flight.task.add_done_callback(lambda task: self._forget(flight_id, flight))
        return flight, True

    def _forget(self, flight_id: FlightId, flight: Flight) -> None:
        self._under_way.discard(flight)
        if self._flights.get(flight_id) is flight:  # a request with more or less time may have begun another
            del self._flights[flight_id]

    def _count(self, work: Work, terms: Terms, usage: v1.Usage) -> None:
        tally, hit = self.tally, usage.cache
        if usage.HasField("cache"):
            tally.saved_tokens += hit.saved_prompt_tokens + hit.saved_completion_tokens
            tally.saved_nano_usd += hit.saved_nano_usd
        if not usage.HasField("cache"):
            outcome = "refresh" if terms.refresh else "miss"
            tally.refreshes += terms.refresh
            tally.misses += not terms.refresh
        elif hit.shared:
            outcome = "shared"
            tally.shared += 1
        else:
            outcome = "hit"
            tally.hits += 1
        work.call.span.set_attribute(names.CACHE, outcome)

    async def _look_up(self, key: str, ttl_s: float) -> Entry | None:
        if self._resting:
            return None
        try:
            value = await self._store.get(key)
        except StoreUnavailable as error:
            self._rest(error)
            return None
        self._back()
        return None if value is None else decode(key, value, self._wall(), ttl_s)

    async def _keep(self, key: str, work: Work, terms: Terms, events: list[v1.GenerationEvent]) -> None:
        """Keep the answer that `events` are, if it may be kept."""
        value = b""
        folder = Folder()
        try:
            for event in events:
                folder.add(event)
            rerouted = any(event.HasField("route_changed") for event in events)
            why = objection(work.spec, work.plan, folder.whole(), rerouted=rerouted)
            if not why:
                value = encode(key, folder.whole(), self._wall())
        except StreamInterrupted as error:
            why = error.message
        if len(value) > self._settings.max_bytes:
            why = f"it has {len(value)} bytes"
        elif self._resting:
            why = "the store is away"
        elif self._writes >= MAX_WRITES:
            why = "too many are being kept at once"
        if why:
            self.tally.not_kept += 1
            log.debug("cache.not_kept", why=why, request_id=work.call.request_id)
            return
        self._writes += 1
        try:
            await self._store.set(key, value, terms.ttl_s)
        except StoreUnavailable as error:
            self._rest(error)
        else:
            self._back()
            self.tally.kept += 1
        finally:
            self._writes -= 1

    @property
    def waiting(self) -> int:
        """Requests that wait for an answer now, those that share one included."""
        return sum(flight.waiting for flight in self._under_way)

    @property
    def _resting(self) -> bool:
        return self._away_until is not None and self._clock() < self._away_until

    def _rest(self, error: StoreUnavailable) -> None:
        self.tally.store_failures += 1
        if self._away_until is None:
            log.warning("cache.away", error=str(error), consequence="every request is answered anew")
        self._away_until = self._clock() + AWAY_S

    def _back(self) -> None:
        if self._away_until is not None:
            self._away_until = None
            log.info("cache.back")

    async def close(self) -> None:
        """Let what is being kept be kept; end what is still being made."""
        tasks = [flight.task for flight in self._under_way]
        for flight in self._under_way:
            if not flight.over:
                flight.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __repr__(self) -> str:
        away = " away" if self._resting else ""
        return f"<Cache{away} {self.tally.hits} hits {self.tally.misses} misses {len(self._flights)} under way>"
