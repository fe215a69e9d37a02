"""A tenant's budget: what its requests may cost in a day and in a month, and what is left of it. Pure.

Amounts are 1e-9 USD. A period is a UTC day or month, by the store's clock. What runs is held against every period until
its cost is known, then spent in the one that it ends in: so at no reservation are spent and held more than a cap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .target import Target

DAY, MONTH = "day", "month"
DAY_S = 86_400.0
LONGEST_MONTH_S = 31 * DAY_S
SPENT, UNCOUNTED = "is spent", "cannot be counted now"


@dataclass(frozen=True, slots=True)
class Budget:
    """The caps of a policy. None: no cap. Fields as in `policy_settings.BudgetSettings`."""

    day: int | None = None
    month: int | None = None
    refuse: bool = False
    unpriced: bool = False
    """Targets of unknown price may be used."""

    def counts(self, target: Target, cost: int | None) -> bool:
        """Whether an answer of `target` that may cost so much counts. An unknown one does, unless it stays here."""
        return not target.local or target.router if cost is None else cost > 0


@dataclass(frozen=True, slots=True)
class Spent:
    """What a tenant had spent and held when the store last said so. Ends of periods are on the router's clock."""

    day: int
    month: int
    held: int
    day_ends: float
    month_ends: float

    def at(self, now: float) -> Spent:
        """The same at `now`: a period that is over has begun anew."""
        found = self
        if now >= found.day_ends:
            gone = (now - found.day_ends) // DAY_S + 1
            found = replace(found, day=0, day_ends=found.day_ends + gone * DAY_S)
        if now >= found.month_ends:
            found = replace(found, month=0, month_ends=max(now, found.month_ends) + LONGEST_MONTH_S)
        return found


@dataclass(frozen=True, slots=True)
class Period:
    """One cap, and what is left of it for this router; it begins anew in `renews_s` seconds, where that is known."""

    name: str
    cap: int
    left: int
    renews_s: float | None = None

    def __repr__(self) -> str:
        return f"<Period {self.name} {self.left} of {self.cap}>"


@dataclass(frozen=True, slots=True)
class Purse:
    """What is left of a budget, as far as this router knows. `why` says in what way nothing more is."""

    periods: tuple[Period, ...] = ()
    why: str = SPENT

    def short(self, cost: int | None) -> tuple[Period, ...]:
        """The periods that have no room for `cost`. One that is unknown needs that anything is left."""
        return tuple(period for period in self.periods if period.left < max(1, cost or 0))

    def objection(self, cost: int | None) -> str:
        """Why an answer that may cost so much cannot be paid, or an empty string."""
        short = self.short(cost)
        if not short:
            return ""
        told = ", ".join(f"{usd(period.left)} of {usd(period.cap)} left this {period.name}" for period in short)
        needed = f", about {usd(cost)} needed" if cost else ""
        return f"the tenant's budget {self.why}: {told}{needed}"

    def renews_s(self, cost: int | None) -> float | None:
        """Seconds until `cost` may be paid again; None where that is not known, or never."""
        ends = [None if (cost or 0) > period.cap else period.renews_s for period in self.short(cost)]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None

    def told(self) -> dict[str, str]:
        """The numbers as metadata of an error, in 1e-9 USD."""
        found = {}
        for period in self.periods:
            found[f"{period.name}_cap_nano_usd"] = str(period.cap)
            found[f"{period.name}_left_nano_usd"] = str(period.left)
        return found


def purse(budget: Budget, spent: Spent | None, now: float, *, routers: int = 1, alone: int = 0) -> Purse:
    """Return what is left of `budget`.

    A router that is alone has its share of what was left when the store last said so, less what it has let through
    since (`alone`); one that never heard of the tenant has nothing.
    """
    caps = [(DAY, budget.day), (MONTH, budget.month)]
    if spent is None:
        return Purse(tuple(Period(name, cap, 0) for name, cap in caps if cap is not None), UNCOUNTED)
    spent = spent.at(now)
    known = {DAY: (spent.day, spent.day_ends), MONTH: (spent.month, spent.month_ends)}
    periods = []
    for name, cap in caps:
        if cap is not None:
            gone, ends = known[name]
            left = max(0, cap - gone - spent.held) // max(1, routers) - alone
            periods.append(Period(name, cap, max(0, left), ends - now))
    return Purse(tuple(periods))


def usd(nano_usd: int) -> str:
    """An amount in USD, as sentences tell it."""
    return f"{nano_usd / 1e9:.6f}".rstrip("0").rstrip(".") + " USD"
