"""Limits as all proxies keep them together: decided on the shared store, or by a written rule while it is away.

While the store is away, each proxy lets through its share: the limit divided by the proxies last seen, or by those the
settings name if they are more. What a proxy let through before counts against its share, and what it let through alone
is charged to the store when the call settles after the store is back.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from services.cloud_proxy import limit_scripts as scripts
from services.cloud_proxy.limits import ALLOWED, CLOSED, NAMES, NOTHING, WINDOW_S, Amounts, Decision, Limits, Window
from spillway.deadline import Clock
from spillway.logs import get_logger
from spillway.store.redis import Script, Store, StoreUnavailable

log = get_logger(__name__)

WINDOW_US = round(WINDOW_S * 1e6)
LOOK_S = 10.0
AWAY_S = 1.0
"""After a failure the store is left alone for so long: a slow store must not slow every call."""
AT_ONCE = 32
"""Scripts under way at once; the rest wait here, not in the connection pool, whose wait is a failure."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was taken for one call."""

    id: str
    provider: str
    amounts: Amounts
    by_store: bool


class Limiter:
    """Reserves and settles. `name` is this proxy's, unique among replicas; `replicas` how many share, at least."""

    def __init__(self, store: Store, *, name: str, replicas: int, clock: Clock) -> None:
        self._store = store
        self._name = name
        self._least = replicas
        self._clock = clock
        self._windows: defaultdict[str, Window] = defaultdict(Window)
        self._seen: dict[str, int] = {}
        self._closed: dict[str, float] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._away_until: float | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def reserve(
        self, id: str, provider: str, limits: Limits, amounts: Amounts
    ) -> tuple[Decision, Reservation | None]:
        """Take `amounts` of all limits at once, or of none; the same `id` counts once."""
        shut = self._closed.get(provider, 0.0) - self._clock()
        if shut > 0:
            return Decision(False, CLOSED, shut), None
        told = [-1 if limit is None else limit for limit in limits]
        try:
            allowed, at, wait_us, seen = await self._run(scripts.RESERVE, provider, [id, *told, *amounts])
        except asyncio.CancelledError:
            self._carry_out(Reservation(id, provider, amounts, True), NOTHING)  # it may have been taken all the same
            raise
        except StoreUnavailable:
            decision = self._windows[provider].reserve(id, amounts, self.share(provider, limits), self._clock())
            return decision, Reservation(id, provider, amounts, False) if decision.allowed else None
        self._seen[provider] = seen
        if allowed:
            self._windows[provider].record(id, amounts, self._clock())
            return ALLOWED, Reservation(id, provider, amounts, True)
        return Decision(False, NAMES[at - 1] if at else CLOSED, None if wait_us < 0 else wait_us / 1e6), None

    async def settle(self, reservation: Reservation, used: Amounts) -> None:
        """Count what was used instead of what was reserved. It is carried out even if the caller is cancelled."""
        await asyncio.shield(self._carry_out(reservation, used))

    def _carry_out(self, reservation: Reservation, used: Amounts) -> asyncio.Task[None]:
        task = asyncio.create_task(self._settle(reservation, used))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _settle(self, reservation: Reservation, used: Amounts) -> None:
        self._windows[reservation.provider].settle(reservation.id, used, self._clock())
        reserved = reservation.amounts if reservation.by_store else NOTHING
        try:
            await self._run(scripts.SETTLE, reservation.provider, [reservation.id, *used, *reserved])
        except StoreUnavailable:
            log.debug("limits.not_settled", provider=reservation.provider)  # it leaves with the window

    async def close_provider(self, provider: str, seconds: float) -> None:
        """Let nothing through to `provider` for `seconds`, here and, if the store answers, everywhere."""
        self._closed[provider] = max(self._closed.get(provider, 0.0), self._clock() + seconds)
        log.warning("provider.closed", provider=provider, seconds=round(seconds, 3))
        try:
            await self._run(scripts.CLOSE, provider, [max(1, round(seconds * 1000))])
        except StoreUnavailable:
            log.debug("limits.closing_not_shared", provider=provider)

    async def look(self, provider: str) -> Amounts | None:
        """What all proxies have let through in this window, or None while the store is away. Counts this proxy in."""
        try:
            requests, tokens, self._seen[provider] = await self._run(scripts.LOOK, provider, [self._name])
        except StoreUnavailable:
            return None
        return Amounts(requests, tokens)

    async def keep_looking(self, providers: Sequence[str]) -> None:
        """Stay counted as a proxy, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            for provider in providers:
                await self.look(provider)

    def share(self, provider: str, limits: Limits) -> Limits:
        """What this proxy lets through alone."""
        return limits.share(max(self._least, self._seen.get(provider, 1)))

    async def settled(self) -> None:
        """Return when every settlement under way is done."""
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    async def _run(self, script: Script, provider: str, arguments: Sequence[str | int]) -> list[int]:
        async with self._gate:
            if self._away_until is not None and self._clock() < self._away_until:
                raise StoreUnavailable("left alone after a failure")
            try:
                found: list[int] = await self._store.run(script, scripts.keys(provider), [WINDOW_US, *arguments])
            except StoreUnavailable as error:
                if self._away_until is None:
                    log.warning("limits.alone", why=str(error), rule="each proxy lets its share through")
                self._away_until = self._clock() + AWAY_S
                raise
            if self._away_until is not None:
                self._away_until = None
                log.info("limits.together")
            return found

    def __repr__(self) -> str:
        return f"<Limiter {self._name} {'together' if self._away_until is None else 'alone'}>"
