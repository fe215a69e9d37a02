"""The line before a provider's limits: one of those who wait is tried at a time, the others are woken in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.cloud_proxy.limiter import Reservation
from services.cloud_proxy.limits import Decision
from services.cloud_proxy.turns import Turn, Turns
from spillway.deadline import Clock

Try = Callable[[], Awaitable[tuple[Decision, Reservation | None]]]
POLL_S = 0.25
"""The longest a line goes without asking: what calls of other proxies give back is not told here."""

LINE = "line"
"""What holds a call that others are before, where no limit is known to."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One call in line, until `until` by the line's clock. `decided` gets its reservation, or why it has none."""

    turn: Turn
    attempt: Try
    until: float
    decided: asyncio.Future[tuple[Decision, Reservation | None]]


@dataclass(frozen=True, slots=True)
class Hold:
    """A scope holds its calls until it is asked again at `asks_at`; one of `weight` fits at `frees_at`."""

    asks_at: float
    frees_at: float
    decision: Decision
    weight: float


class Line:
    """One provider's line. `give_back` is called with what was reserved for a call that is gone."""

    def __init__(self, *, clock: Clock, max_waiting: int, give_back: Callable[[Reservation], Awaitable[None]]) -> None:
        self._clock = clock
        self._max = max_waiting
        self._give_back = give_back
        self._turns = Turns()
        self._waiters: dict[Turn, Waiter] = {}
        self._held: dict[str, Hold] = {}
        self._news = asyncio.Event()
        self._prober: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return len(self._turns)

    def wake(self) -> None:
        """Something has been given back: whoever is in turn is tried at once."""
        self._held.clear()
        self._news.set()

    async def take(self, attempt: Try, turn: Turn, wait_s: float) -> tuple[Decision, Reservation | None]:
        """Reserve by `attempt`, waiting up to `wait_s` seconds in line; else return what holds the call."""
        until = self._clock() + wait_s
        if not self._turns or wait_s <= 0:
            decision, reservation = await attempt()
            if reservation is not None or _hopeless(decision, until - self._clock()):
                return decision, reservation
            self._hold(decision, turn)
        else:
            for scope in turn.scopes & self._held.keys():
                hold = self._held[scope]
                sooner = turn.weight < hold.weight and self._first(turn)  # asks for less, and is before who is held
                if hold.frees_at > until and not sooner:
                    return hold.decision, None
        if len(self._turns) >= self._max:
            return self._holds(turn), None
        return await self._wait(Waiter(turn, attempt, until, asyncio.get_running_loop().create_future()))

    async def _wait(self, waiter: Waiter) -> tuple[Decision, Reservation | None]:
        self._turns.enter(waiter.turn)
        self._waiters[waiter.turn] = waiter
        self._news.set()
        if self._prober is None:
            self._prober = asyncio.create_task(self._probe())
        try:
            async with asyncio.timeout(waiter.until - self._clock()):
                return await asyncio.shield(waiter.decided)
        except TimeoutError:
            if waiter.decided.done():
                return waiter.decided.result()
            return self._holds(waiter.turn), None
        except asyncio.CancelledError:
            decided = waiter.decided
            if decided.done() and decided.exception() is None and (reservation := decided.result()[1]) is not None:
                await self._give_back(reservation)
            raise
        finally:
            self._leave(waiter)

    async def _probe(self) -> None:
        try:
            while self._turns:
                self._news.clear()
                now = self._clock()
                self._held = {scope: held for scope, held in self._held.items() if held.asks_at > now}
                turn = self._turns.next(self._held)
                if turn is None:
                    asks_in = min(held.asks_at for held in self._held.values()) - now
                    try:
                        async with asyncio.timeout(asks_in):
                            await self._news.wait()
                    except TimeoutError:
                        pass
                    continue
                await self._attempt(self._waiters[turn])
        finally:
            self._prober = None

    async def _attempt(self, waiter: Waiter) -> None:
        try:
            decision, reservation = await waiter.attempt()
        # A defect is told to the one in turn; the others go on.
        except Exception as error:
            if waiter.turn in self._waiters:
                self._leave(waiter)
                waiter.decided.set_exception(error)
            return
        gone = waiter.turn not in self._waiters
        if reservation is not None:
            if gone:
                await self._give_back(reservation)
                return
            self._turns.serve(waiter.turn)
        elif gone or not _hopeless(decision, waiter.until - self._clock()):
            self._hold(decision, waiter.turn)
            return
        self._leave(waiter)
        waiter.decided.set_result((decision, reservation))

    def _hold(self, decision: Decision, turn: Turn) -> None:
        if decision.wait_s is not None:
            now = self._clock()
            asks_at, frees_at = now + min(decision.wait_s, POLL_S), now + decision.wait_s
            self._held[decision.scope] = Hold(asks_at, frees_at, decision, turn.weight)

    def _first(self, turn: Turn) -> bool:
        self._turns.enter(turn)
        first = self._turns.next() is turn
        self._turns.leave(turn)
        return first

    def _holds(self, turn: Turn) -> Decision:
        """Why `turn` has not come."""
        held = (self._held[scope].decision for scope in turn.scopes if scope in self._held)
        return next(held, Decision(False, LINE, POLL_S))

    def _leave(self, waiter: Waiter) -> None:
        self._turns.leave(waiter.turn)
        self._waiters.pop(waiter.turn, None)

    async def close(self) -> None:
        """End the one who asks; whoever waits is decided no more."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])

    def __repr__(self) -> str:
        return f"<Line {self.waiting} waiting>"


def _hopeless(decision: Decision, left_s: float) -> bool:
    return decision.wait_s is None or decision.wait_s > left_s
