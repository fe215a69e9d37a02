"""The lease at work: calls wait in line, the first asks the store, what is held is renewed or its call cancelled."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from spillway.deadline import Clock
from spillway.errors import SpillwayError, TargetBusy, TargetTimeout
from spillway.logs import get_logger
from spillway.rpc.call import Call
from spillway.store.redis import Store, StoreUnavailable
from spillway.telemetry import names

from .claims import LOOK_S, Claims
from .lease_measures import LeaseMeasures
from .lease_settings import LeaseSettings
from .line import Line, Ticket
from .tenure import Lost, Renew, Tenure

log = get_logger(__name__)

ASK_S = 0.5
"""Also a call that may not wait is given the time to ask the store."""
TRIES, TRY_AGAIN_S = 2, 0.1
"""The store is away when so many tries in a row have failed: one slow answer must not fail all that wait."""
WHY = {
    "expired": "it could not be renewed in time",
    "gone": "the store says it is another's",
    "ended": "an operator released it",
    "crashed": "its renewal crashed",
}


class Lease:
    """The right to call a runtime that takes `settings.slots` calls at once. `owner` names this engine to operators."""

    def __init__(
        self, settings: LeaseSettings, name: str, store: Store, *, owner: str, measures: LeaseMeasures, clock: Clock
    ) -> None:
        self.line = Line(name, places=settings.queue, slots=settings.slots)
        self._settings = settings
        self._name = name
        self._claims = Claims(store, settings, name, owner)
        self._measures = measures
        self._clock = clock
        self._called: dict[Ticket, asyncio.Future[Tenure]] = {}
        self._holds: dict[Ticket, Hold] = {}
        self._wake = asyncio.Event()
        """Set when there is something to ask the store for, or to hear from it."""
        self._tasks: list[asyncio.Task[None]] = []
        self._failed = 0
        """Tries in a row that the store did not answer."""

    def start(self) -> None:
        """Begin to serve the line."""
        self._tasks = [
            asyncio.create_task(self._claim(), name="lease-claim"),
            asyncio.create_task(self._listen(), name="lease-listen"),
        ]

    async def close(self) -> None:
        """Stop; who waits is refused. All holds have ended by then."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._refuse("the engine stops")
        await self._claims.freed()

    @asynccontextmanager
    async def held(self, call: Call, *, background: bool) -> AsyncIterator[Tenure]:
        """Hold the lease for the block, checked with the store just before it is entered.

        The block is cancelled when the lease is lost, and what is raised then is TargetBusy, or TargetTimeout after the
        longest hold. Raises TargetBusy where the lease cannot be had within `wait_s` or the time for lines.
        """
        ticket, came = Ticket(uuid.uuid4().hex, call.request_id or "-", background, self._clock()), self._clock()
        tenure = await self._wait(ticket, call)
        hold = self._holds[ticket] = Hold(self._claims, ticket, tenure, self._clock)
        try:
            async with hold:
                await hold.check()
                waited_s = self._clock() - came
                call.span.set_attribute(names.QUEUE_MS, round(waited_s * 1000))
                self._measures.acquired(waited_s)
                log.debug("lease.acquired", lease=self._name, fencing=tenure.fencing, waited_ms=round(waited_s * 1000))
                yield tenure
        except LeaseLost as lost:
            self._measures.lost(lost.why)
            event = "lease.released_by_force" if lost.why == "ended" else "lease.lost"
            log.warning(event, lease=self._name, fencing=tenure.fencing, why=lost.why)
            raise self._error(lost.why) from None
        finally:
            del self._holds[ticket]
            self.line.inside -= 1
            self.line.ended(self._clock() - tenure.since)
            self._claims.free(ticket)
            self._wake.set()

    async def _wait(self, ticket: Ticket, call: Call) -> Tenure:
        allowed_s = min(self._settings.wait_s, call.line_s)
        self.line.join(ticket, allowed_s)
        called = self._called[ticket] = asyncio.get_running_loop().create_future()
        self._wake.set()
        try:
            async with asyncio.timeout(max(allowed_s, min(ASK_S, call.line_s))):
                return await asyncio.shield(called)
        except BaseException as error:
            self._leave(ticket, called)
            if isinstance(error, TimeoutError):
                raise self.line.busy(f"it was not free within {allowed_s:.1f} s") from None
            raise
        finally:
            del self._called[ticket]

    def _leave(self, ticket: Ticket, called: asyncio.Future[Tenure]) -> None:
        """Go away, with nothing or with what has just been got."""
        if called.done() and called.exception() is None:
            self.line.inside -= 1
        else:
            self.line.leave(ticket)
            called.cancel()
        self._claims.free(ticket)
        self._wake.set()

    def _call(self, ticket: Ticket, tenure: Tenure) -> None:
        if not self.line.leave(ticket):  # it went away while the store was asked
            self._claims.free(ticket)
            return
        self.line.inside += 1
        self._called[ticket].set_result(tenure)

    def _refuse(self, why: str) -> None:
        while (ticket := self.line.head) is not None:
            self.line.leave(ticket)
            self._called[ticket].set_exception(self.line.shut(why))

    async def _claim(self) -> None:
        """Ask the store for whoever is next, for as long as there is someone."""
        while True:
            self._wake.clear()
            ticket = self.line.head
            pause_s: float | None = None
            try:
                if ticket is not None:
                    pause_s = LOOK_S if self._is_full_alone() else await self._ask(ticket)
            except Exception as error:
                self._refuse("it cannot be asked for")
                log.error("lease.crashed", exc_info=error)
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _ask(self, ticket: Ticket) -> float:
        """Ask for `ticket`, and return the seconds until the next should be asked for if there is no news."""
        sent = self._clock()
        try:
            found = await self._claims.take(ticket, waited_s=sent - ticket.since, waiting=len(self.line))
        except StoreUnavailable as error:
            self._failed += 1
            if self._failed < TRIES:
                return TRY_AGAIN_S
            self._without_store(ticket, error)
            return 0
        self._failed = 0
        fencing, again_s, self.line.beside = found
        if fencing:
            self._call(ticket, Tenure(self._settings, fencing, sent))
            return 0
        if ticket not in self._called:  # it went away meanwhile, and must not keep its place before others
            self._claims.free(ticket)
            return 0
        return again_s

    def _without_store(self, ticket: Ticket, error: StoreUnavailable) -> None:
        if self._settings.without_store == "refuse":
            self._refuse(f"the store that keeps it is away, so nobody can tell whether it is free ({error})")
        elif self.line.inside < self._settings.slots:
            self._call(ticket, Tenure(self._settings, 0, self._clock(), alone=True))

    def _is_full_alone(self) -> bool:
        """Whether this engine's own holds, of which the store knows not all, leave no slot."""
        full = self._settings.without_store == "local" and self.line.inside >= self._settings.slots
        return full and (self._claims.away or any(hold.tenure.alone for hold in self._holds.values()))

    async def _listen(self) -> None:
        """Hear of free slots, and of holds that are wanted back."""
        while True:
            try:
                async with aclosing(self._claims.news()) as news:
                    async for told in news:
                        if told != "freed":  # wanted back; or news may have been missed
                            for hold in self._holds.values():
                                hold.hurry()
                        self._wake.set()
            except StoreUnavailable:
                await asyncio.sleep(LOOK_S)

    def _error(self, why: str) -> SpillwayError:
        if why == "held_longest":
            return TargetTimeout(
                f"lease {self._name}: the call took longer than the {self._settings.max_hold_s:g} s it may be held",
                resource=self._name,
            )
        return TargetBusy(f"lease {self._name} was lost: {WHY[why]}", retry_after_s=1.0, resource=self._name)

    def __repr__(self) -> str:
        alone = any(hold.tenure.alone for hold in self._holds.values())
        return f"<Lease {self.line!r}{' alone' if alone else ''}>"


class LeaseLost(Exception):
    """The lease was lost, or taken back, while it was held."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Hold:
    """Keeps a lease for a block of one task; when it is lost, the block is cancelled and raises LeaseLost."""

    def __init__(self, claims: Claims, ticket: Ticket, tenure: Tenure, clock: Clock) -> None:
        self.tenure = tenure
        self._claims = claims
        self._ticket = ticket
        self._clock = clock
        self._hurried = asyncio.Event()
        self._lost: Lost | None = None
        self._cancelling = 0

    async def __aenter__(self) -> Hold:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._keeper = asyncio.create_task(self._keep(), name="lease-keep")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._keeper.cancel()
        if self._lost is not None and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise LeaseLost(self._lost.why) from None

    async def check(self) -> None:
        """Ask the store whether the lease is still held under its fencing token. Raises LeaseLost."""
        await self._renew()
        step = self.tenure.next(self._clock())
        if isinstance(step, Lost):
            raise LeaseLost(step.why)

    def hurry(self) -> None:
        """There is news: ask the store now."""
        self.tenure.hurry(self._clock())
        self._hurried.set()

    async def _keep(self) -> None:
        try:
            while not isinstance(step := self.tenure.next(self._clock()), Lost):
                if isinstance(step, Renew):
                    await self._renew()
                    continue
                self._hurried.clear()
                try:
                    async with asyncio.timeout(step.seconds):
                        await self._hurried.wait()
                except TimeoutError:
                    pass
            self._lose(step)
        except asyncio.CancelledError:
            return
        except Exception as error:  # a lease that nobody renews would be another's soon, with the call still running
            self._lose(Lost("crashed"))
            log.error("lease.crashed", exc_info=error)

    def _lose(self, lost: Lost) -> None:
        self._lost = lost
        self._task.cancel()

    async def _renew(self) -> None:
        if self.tenure.alone:
            return
        sent = self._clock()
        try:
            left_s = await self._claims.renew(self._ticket, self.tenure, sent - self.tenure.since)
        except StoreUnavailable:
            self.tenure.missed(self._clock())
        else:
            self.tenure.renewed(sent, left_s)

    def __repr__(self) -> str:
        return f"<Hold {self.tenure!r}>"
