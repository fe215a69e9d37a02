"""What tenants spend, as all routers count it together on the store.

Before an attempt that costs something its estimate is held, after it what it cost is charged. What the store could not
be told is owed: it is told, each once, before anything else is held there. While the store is away each router goes by
its share of what was left when the store last said so (`budget.purse`).
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from spillway import v1
from spillway.deadline import Clock, Deadline
from spillway.errors import CostCap, DeadlineExceeded, TargetTimeout
from spillway.logs import get_logger
from spillway.store.redis import Script, Store, StoreUnavailable

from . import spend_scripts as scripts
from .budget import Budget, Purse, Spent, purse
from .spend_settings import SpendSettings

log = get_logger(__name__)

AWAY_S = 1.0
"""After a failure the store is left alone for so long: a slow store must not slow every request."""
AT_ONCE = 32
"""Scripts under way at once; the rest wait here, not in the connection pool, whose wait is a failure."""
LONGEST_HOLD_S = 86_400.0
SETTLED_S = 600.0
"""So long the store remembers that an attempt is settled, lest it is charged twice after a lost reply."""
PAID_FIRST = 64
"""A request does not wait until more is paid than this: its router goes on alone until it is."""
MAX_TENANTS = 10_000
MAX_OWED = 100_000


class _NotAsked(StoreUnavailable):
    """The store was not asked at all."""


@dataclass(slots=True, eq=False)
class Hold:
    """What is set aside for one attempt, in 1e-9 USD. `ends` is on the router's clock."""

    tenant: str
    estimate: int
    ends: float
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    told: bool = False
    """The store has it."""
    cost: int | None = None
    """Once it is settled."""

    @property
    def untold(self) -> int:
        """What it counts for beyond what the store knows of."""
        counts = self.estimate if self.cost is None else self.cost
        return max(0, counts - (self.estimate if self.told else 0))

    def __repr__(self) -> str:
        return f"<Hold {self.tenant} {self.estimate} {'open' if self.cost is None else f'settled {self.cost}'}>"


class Spend:
    """Holds and charges for one router. `store` None: nothing can be counted. `routers` tells how many share it."""

    def __init__(
        self, settings: SpendSettings, store: Store | None, *, clock: Clock, routers: Callable[[], int] = lambda: 1
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._routers = routers
        self._known: OrderedDict[str, tuple[float, Spent]] = OrderedDict()
        self._owed: dict[str, dict[str, Hold]] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._paying = asyncio.Lock()
        self._wake = asyncio.Event()
        self._payer: asyncio.Task[None] | None = None
        self._closed = False
        self._away_until: float | None = None
        self.charged_nano_usd = 0
        self.refused = 0
        """Plans and attempts for which not enough was left."""

    def known(self, most: int) -> Mapping[str, Spent]:
        """What `most` tenants have spent as the store last said, those asked for last first."""
        now = self._clock()
        return {tenant: self._known[tenant][1].at(now) for tenant in islice(reversed(self._known), most)}

    async def look(self, tenant: str, budget: Budget) -> Purse:
        """Return what is left to `tenant`, as it was `look_s` ago at most while the store is there."""
        at, _ = self._known.get(tenant, (None, None))
        if at is None or self._away_until is not None or self._clock() - at >= self._settings.look_s:
            try:
                await self._run(scripts.LOOK, tenant, [])
            except StoreUnavailable:
                return self._purse_alone(tenant, budget)
        return self._purse(tenant, budget)

    async def hold(self, tenant: str, budget: Budget, estimate: int | None, deadline: Deadline) -> Hold:
        """Set `estimate` aside for one attempt; `settle` it whatever happens. Unknown is held as nothing.

        Raises CostCap where it does not fit what is left.
        """
        lasts_s = min(deadline.left() + self._settings.hold_grace_s, LONGEST_HOLD_S)
        hold = Hold(tenant, estimate or 0, self._clock() + lasts_s)
        caps = [-1 if cap is None else cap for cap in (budget.day, budget.month)]
        try:
            if len(self._owed.get(tenant, ())) > PAID_FIRST:
                raise _NotAsked("it is owed too much")
            await self._pay(tenant)
            hold.told = await self._run(scripts.RESERVE, tenant, [hold.id, hold.estimate, *caps, _us(lasts_s)])
            if not hold.told:
                raise self._refused(self._purse(tenant, budget), estimate)
        except asyncio.CancelledError:
            self.settle(hold, 0)  # it may have been taken all the same
            raise
        except StoreUnavailable as error:
            left = self._purse_alone(tenant, budget)
            if left.short(estimate):
                if not isinstance(error, _NotAsked):
                    self.settle(hold, 0)  # so it may here
                raise self._refused(left, estimate) from None
            self._owe(hold)
        return hold

    def settle(self, hold: Hold, cost: int) -> None:
        """Charge `cost` instead of what was held. The store is told soon."""
        hold.cost = cost
        self.charged_nano_usd += cost
        self._owe(hold)
        self._wake.set()

    async def start(self) -> None:
        self._payer = asyncio.create_task(self._keep_paying(), name="spend")

    async def close(self) -> None:
        """Tell what is owed, as far as the store takes it, and stop."""
        self._closed = True  # a cancel alone can be lost in the store's client
        if self._payer is not None:
            self._payer.cancel()
            await asyncio.gather(self._payer, return_exceptions=True)
        try:
            await self._pay_all()
        except StoreUnavailable:
            log.warning("spend.unpaid", holds=sum(map(len, self._owed.values())))

    async def _keep_paying(self) -> None:
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._pay_all()
            except StoreUnavailable:
                await asyncio.sleep(AWAY_S)
                self._wake.set()

    async def _pay_all(self) -> None:
        for tenant in list(self._owed):
            await self._pay(tenant)

    async def _pay(self, tenant: str) -> None:
        """Tell the store what it is owed of `tenant`. Raises StoreUnavailable."""
        for hold in list(self._owed.get(tenant, {}).values()):
            async with self._paying:  # for one at a time: no tenant waits for what others owe
                if hold.id not in self._owed.get(tenant, {}):
                    continue
                cost = hold.cost
                if cost is None:  # let through alone, and still running
                    lasts_us = _us(hold.ends - self._clock())
                    await self._run(scripts.RESERVE, tenant, [hold.id, hold.estimate, -1, -1, lasts_us])
                    hold.told = True
                else:
                    await self._run(scripts.SETTLE, tenant, [hold.id, cost, _us(SETTLED_S)])
                if hold.cost == cost:
                    self._forget(hold)

    def _owe(self, hold: Hold) -> None:
        if self._store is None:
            return
        self._owed.setdefault(hold.tenant, {})[hold.id] = hold
        if len(self._owed[hold.tenant]) > MAX_OWED:
            oldest = next(iter(self._owed[hold.tenant].values()))
            log.error("spend.lost", tenant=hold.tenant, nano_usd=oldest.untold)
            self._forget(oldest)

    def _forget(self, hold: Hold) -> None:
        holds = self._owed.get(hold.tenant, {})
        holds.pop(hold.id, None)
        if not holds:
            self._owed.pop(hold.tenant, None)

    def _purse(self, tenant: str, budget: Budget) -> Purse:
        return purse(budget, self._known[tenant][1], self._clock())

    def _purse_alone(self, tenant: str, budget: Budget) -> Purse:
        alone = sum(hold.untold for hold in self._owed.get(tenant, {}).values())
        _, spent = self._known.get(tenant, (0.0, None))
        return purse(budget, spent, self._clock(), routers=self._routers(), alone=alone)

    def _refused(self, left: Purse, estimate: int | None) -> CostCap:
        self.refused += 1
        return CostCap(left.objection(estimate), retry_after_s=left.renews_s(estimate), metadata=left.told())

    async def _run(self, script: Script, tenant: str, arguments: Sequence[str | int]) -> bool:
        if self._store is None:
            raise _NotAsked("no store is configured")
        async with self._gate:
            if self._away_until is not None and self._clock() < self._away_until:
                raise _NotAsked("left alone after a failure")
            asked = self._clock()
            try:
                done, day, month, held, day_us, month_us = await self._store.run(
                    script, scripts.keys(tenant), arguments
                )
            except StoreUnavailable as error:
                if self._away_until is None:
                    log.warning(
                        "spend.alone", why=str(error), rule="each router lets its share of what was left through"
                    )
                self._away_until = self._clock() + AWAY_S
                raise
            if self._away_until is not None:
                self._away_until = None
                log.info("spend.together")
        self._known[tenant] = asked, Spent(day, month, held, asked + day_us / 1e6, asked + month_us / 1e6)
        self._known.move_to_end(tenant)
        if len(self._known) > MAX_TENANTS:
            self._known.popitem(last=False)
        return bool(done)

    def __repr__(self) -> str:
        owed = sum(map(len, self._owed.values()))
        return f"<Spend {'together' if self._away_until is None else 'alone'} {len(self._known)} tenants {owed} owed>"


_LEFT_AT_WORK = frozenset({TargetTimeout.reason, DeadlineExceeded.reason})


def charge(record: v1.Attempt, estimate: int) -> int:
    """What an attempt is charged, in 1e-9 USD.

    A target that failed without a token costs nothing, unless it was left at its work. Of an answer that broke off, or
    was cancelled, the cost is not known whole, so it is the estimate at least.
    """
    known = record.cost_nano_usd if record.HasField("cost_nano_usd") else None
    if known is not None and record.HasField("prompt_tokens"):
        return known
    failed = record.outcome == v1.ATTEMPT_OUTCOME_FAILED and record.reason not in _LEFT_AT_WORK
    if failed and known is None and not record.HasField("completion_tokens"):
        return 0
    return max(known or 0, estimate)


def _us(seconds: float) -> int:
    return max(1, round(seconds * 1e6))
