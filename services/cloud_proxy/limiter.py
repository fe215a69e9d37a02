"""Limits as all proxies keep them together: decided on the shared store, or by a written rule while it is away.

While the store is away, each proxy lets through its share: every limit divided by the proxies last seen, or by those
the settings name if they are more. What a proxy let through before counts against its share, and what it let through
alone is charged to the store when the store is back, also where the call has ended before that.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace

from services.cloud_proxy import limit_arguments
from services.cloud_proxy import limit_scripts as scripts
from services.cloud_proxy.allowance import Allowance
from services.cloud_proxy.limits import (
    ALLOWED,
    CLOSED,
    DAY_S,
    IN_WINDOW,
    MARGIN,
    NAMES,
    NOTHING,
    SLICES,
    UNLIMITED,
    WINDOW_S,
    Amounts,
    Decision,
    Limits,
    Scope,
    Window,
    decide,
)
from services.cloud_proxy.standing import Standing, read
from spillway.deadline import Clock
from spillway.logs import get_logger
from spillway.store.redis import Argument, Script, Store, StoreUnavailable

log = get_logger(__name__)

LOOK_S = 10.0
AWAY_S = 1.0
"""After a failure the store is left alone for so long: a slow store must not slow every call."""
AT_ONCE = 32
"""Scripts under way at once; the rest wait here, not in the connection pool, whose wait is a failure."""
LEASE_SHARE = 0.5
"""Of the window, how long the store believes that a call runs without hearing of it; it hears three times as often."""
LATEST_S = 5.0
"""A call that the provider answers later than this came earlier than it answered: a model may think for minutes."""
MOST_OWED = 20_000
"""Calls that ended while the store was away, and are still to be charged; of more, the oldest are let go."""
LONGEST_RESET_S = 3600.0
"""What a provider says is left is believed no longer than this."""


@dataclass(slots=True, eq=False)
class Reservation:
    """What was taken for one call; `amounts` is what it counts for now."""

    id: str
    provider: str
    scopes: tuple[Scope, ...]
    amounts: Amounts
    stored: Amounts
    """What the store counts for it, as far as is known; NOTHING: it was let through alone."""
    told_at: float
    """When the store last heard of it, by the limiter's clock."""

    def __repr__(self) -> str:
        return f"<Reservation {self.provider} {self.amounts} {'alone' if self.stored == NOTHING else 'together'}>"


@dataclass(frozen=True, slots=True)
class Debt:
    """What a call used that ended at `since`, of which the store has not heard."""

    reservation: Reservation
    used: Amounts
    late_s: float
    since: float


class Limiter:
    """Reserves and settles. `name` is this proxy's, unique among replicas; `replicas` how many share, at least.

    `wall` gives seconds since the epoch, for the day of money while the store is away; `window_s` is for tests.
    """

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        replicas: int,
        clock: Clock,
        wall: Clock = time.time,
        window_s: float = WINDOW_S,
    ) -> None:
        self._store = store
        self._name = name
        self._least = replicas
        self._clock = clock
        self._wall = wall
        self._window_s = window_s
        self._lease_s = window_s * LEASE_SHARE
        self._windows: defaultdict[str, dict[str, Window]] = defaultdict(dict)
        self._learned: dict[tuple[str, str], Limits] = {}
        self._seen: dict[str, int] = {}
        self._closed: dict[tuple[str, str], tuple[float, str]] = {}
        self._running: dict[str, Reservation] = {}
        self._owed: dict[str, Debt] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._away_until: float | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def reserve(
        self, id: str, provider: str, scopes: tuple[Scope, ...], amounts: Amounts
    ) -> tuple[Decision, Reservation | None]:
        """Take `amounts` of all limits of all `scopes` at once, or of none; the same `id` counts once."""
        for scope in scopes:
            if (shut := self._shut(provider, scope.name)) > 0:
                return Decision(False, CLOSED, shut, scope.name), None
        reservation = Reservation(id, provider, scopes, amounts, amounts, self._clock())
        try:
            allowed, at, wait_us, whose = await self._run(scripts.RESERVE, reservation, amounts, learner(scopes))
        except asyncio.CancelledError:
            self._carry_out(reservation, NOTHING, final=True)  # it may have been taken all the same
            raise
        except StoreUnavailable:
            return self._alone(reservation)
        if allowed:
            windows, day = self._windows_of(provider, scopes), int(self._wall() // DAY_S)
            for scope in scopes:
                windows[scope.name].add(id, amounts, self._clock(), day)
            self._running[id] = reservation
            return ALLOWED, reservation
        name, wait_s = NAMES[at - 1] if at else CLOSED, None if wait_us < 0 else wait_us / 1e6
        return Decision(False, name, wait_s, scopes[whose - 1].name), None

    def grow(self, reservation: Reservation, amounts: Amounts, allowances: Sequence[Allowance] = ()) -> None:
        """Count `amounts` for a running call from now on, in the background. Nothing refuses what runs."""
        self._carry_out(reservation, amounts, allowances=allowances, final=False)

    async def settle(
        self, reservation: Reservation, used: Amounts, allowances: Sequence[Allowance] = (), *, late_s: float = 0.0
    ) -> None:
        """Count what was used instead of what was reserved. It is carried out even if the caller is cancelled.

        `late_s`: seconds after its reservation by which the provider had the call. What that is beyond the margin, it
        counts from later.
        """
        late_s = min(LATEST_S, max(0.0, late_s - self._window_s * MARGIN / SLICES))
        await asyncio.shield(self._carry_out(reservation, used, allowances=allowances, final=True, late_s=late_s))

    async def close(self, provider: str, scope: Scope, seconds: float, why: str) -> None:
        """Let nothing through to `scope` for `seconds`, here and, if the store answers, everywhere."""
        until, _ = self._closed.get((provider, scope.name), (0.0, ""))
        self._closed[provider, scope.name] = (max(until, self._clock() + seconds), why)
        log.warning("provider.closed", provider=provider, scope=scope.name or None, seconds=round(seconds, 3), why=why)
        try:
            await self._send(
                scripts.CLOSE,
                [limit_arguments.proxies_key(provider), *limit_arguments.scope_keys(provider, [scope])],
                [self._frame(NOTHING), limit_arguments.limits_of([scope]), max(1, round(seconds * 1e6)), why],
            )
        except StoreUnavailable:
            log.debug("limits.closing_not_shared", provider=provider)

    async def look(self, provider: str, scopes: Sequence[Scope]) -> dict[str, Standing]:
        """How `scopes` stand among all proxies, by name; each without numbers while the store is away.

        Counts this proxy in.
        """
        try:
            found = await self._send(
                scripts.LOOK,
                [limit_arguments.proxies_key(provider), *limit_arguments.scope_keys(provider, scopes)],
                [self._frame(NOTHING), limit_arguments.limits_of(scopes), self._name],
            )
        except StoreUnavailable:
            return {
                scope.name: Standing(
                    scope,
                    closed_s=max(0.0, self._shut(provider, scope.name)),
                    why=self._closed.get((provider, scope.name), (0.0, ""))[1],
                    learned=self._learned.get((provider, scope.name), UNLIMITED),
                )
                for scope in scopes
            }
        self._seen[provider], *told = found
        standings = {scope.name: read(scope, each) for scope, each in zip(scopes, told, strict=True)}
        for name, standing in standings.items():
            self._learned[provider, name] = standing.learned
        return standings

    async def keep(self, providers: Mapping[str, Sequence[Scope]]) -> None:
        """For ever: stay counted as a proxy, and tell the store of the calls that run."""
        looked, beat_s = self._clock(), min(LOOK_S, self._lease_s / 3)
        while True:
            await asyncio.sleep(beat_s)
            now = self._clock()
            for reservation in list(self._running.values()):
                if now - reservation.told_at >= beat_s:
                    await asyncio.shield(self._carry_out(reservation, reservation.amounts, final=False))
            if now - looked >= LOOK_S:
                looked = now
                for provider, scopes in providers.items():
                    await self.look(provider, scopes)
                    self._forget(provider)

    def share(self, provider: str, scope: Scope) -> Limits:
        """What this proxy lets through alone, of what is configured and of what the provider told."""
        known = self._learned.get((provider, scope.name), UNLIMITED)
        return scope.limits.within(known).share(max(self._least, self._seen.get(provider, 1)))

    async def settled(self) -> None:
        """Return when every settlement under way is done."""
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    def _alone(self, reservation: Reservation) -> tuple[Decision, Reservation | None]:
        provider, scopes = reservation.provider, reservation.scopes
        shares = [replace(scope, limits=self.share(provider, scope)) for scope in scopes]
        windows = self._windows_of(provider, scopes)
        decision = decide(windows, shares, reservation.id, reservation.amounts, self._clock(), wall_s=self._wall())
        if not decision.allowed:
            return decision, None
        reservation.stored = NOTHING
        self._running[reservation.id] = reservation
        return decision, reservation

    def _windows_of(self, provider: str, scopes: Sequence[Scope]) -> dict[str, Window]:
        windows = self._windows[provider]
        for scope in scopes:
            if scope.name not in windows:
                windows[scope.name] = Window(self._window_s)
        return windows

    def _forget(self, provider: str) -> None:
        """Let go the windows of those who have not come for a while."""
        windows = self._windows[provider]
        for name, window in list(windows.items()):
            window.forget(self._clock())
            if window.empty:
                del windows[name]

    def _shut(self, provider: str, scope: str) -> float:
        return self._closed.get((provider, scope), (0.0, ""))[0] - self._clock()

    def _carry_out(
        self,
        reservation: Reservation,
        amounts: Amounts,
        *,
        final: bool,
        allowances: Sequence[Allowance] = (),
        late_s: float = 0.0,
    ) -> asyncio.Task[None]:
        reservation.amounts = amounts
        reservation.told_at = self._clock()
        windows, day = self._windows_of(reservation.provider, reservation.scopes), int(self._wall() // DAY_S)
        for scope in reservation.scopes:
            windows[scope.name].change(reservation.id, amounts, self._clock(), day=day, final=final)
        if final:
            self._running.pop(reservation.id, None)
        ended_at = self._clock() if final else None
        return self._begin(self._change(reservation, amounts, ended_at, allowances, late_s))

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _change(
        self,
        reservation: Reservation,
        amounts: Amounts,
        ended_at: float | None,
        allowances: Sequence[Allowance],
        late_s: float,
    ) -> None:
        told = limit_arguments.told_of(
            (
                NAMES.index(one.name) + 1,
                one.remaining,
                one.limit,
                min(LONGEST_RESET_S, self._window_s if one.reset_s is None else one.reset_s),
            )
            for one in allowances
            if one.name in NAMES[:IN_WINDOW]
        )
        reserved = limit_arguments.amounts_of(reservation.stored)
        at = learner(reservation.scopes)
        try:
            await self._run(
                scripts.CHANGE, reservation, amounts, at, int(ended_at is not None), reserved, told, round(late_s * 1e6)
            )
        except StoreUnavailable:
            if ended_at is not None and amounts != reservation.stored:
                self._owe(Debt(reservation, amounts, late_s, ended_at))
        else:
            reservation.stored = amounts

    def _owe(self, debt: Debt) -> None:
        self._owed[debt.reservation.id] = debt
        if len(self._owed) == MOST_OWED:
            log.warning("limits.owed_too_much", most=MOST_OWED)
        if len(self._owed) > MOST_OWED:
            del self._owed[next(iter(self._owed))]

    async def _pay(self) -> None:
        """Have the store count what ended while it was away; of what ended a window ago, its money alone."""
        owed, self._owed = self._owed, {}
        for debt in owed.values():
            reservation, used = debt.reservation, debt.used
            if self._clock() - debt.since > self._window_s:
                used = Amounts(nano_usd=used.nano_usd)
                reservation.stored = Amounts(nano_usd=reservation.stored.nano_usd)
            if used != reservation.stored:
                await self._change(reservation, used, debt.since, (), debt.late_s)

    def _frame(self, amounts: Amounts) -> bytes:
        return limit_arguments.frame(self._window_s * 1e6 / SLICES, self._lease_s * 1e6, amounts)

    async def _run(self, script: Script, reservation: Reservation, amounts: Amounts, *more: int | bytes) -> list[int]:
        """Run a script of one call, which is counted for `amounts`."""
        provider, scopes = reservation.provider, reservation.scopes
        found: list[int] = await self._send(
            script,
            [limit_arguments.call_key(provider, reservation.id), *limit_arguments.scope_keys(provider, scopes)],
            [self._frame(amounts), limit_arguments.limits_of(scopes), reservation.id, *more],
        )
        return found

    async def _send(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> list[int]:
        async with self._gate:
            if self._away_until is not None:
                if self._clock() < self._away_until:
                    raise StoreUnavailable("left alone after a failure")
                self._away_until = self._clock() + AWAY_S  # one asks, and the others go on alone meanwhile
            try:
                found: list[int] = await self._store.run(script, keys, arguments)
            except StoreUnavailable as error:
                if self._away_until is None:
                    log.warning("limits.alone", why=str(error), rule="each proxy lets its share through")
                self._away_until = self._clock() + AWAY_S
                raise
            if self._away_until is not None:
                self._away_until = None
                log.info("limits.together", owed=len(self._owed))
                if self._owed:
                    self._begin(self._pay())
            return found

    def __repr__(self) -> str:
        return f"<Limiter {self._name} {'together' if self._away_until is None else 'alone'}>"


def learner(scopes: Sequence[Scope]) -> int:
    """Number of the scope, from 1, where the provider's own word counts; 0: none."""
    return next((at for at, scope in enumerate(scopes, 1) if scope.learns), 0)
