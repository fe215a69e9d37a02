"""Admission: who is answered now, who waits, who is sent away. Pure: a moment in, a decision out.

Places are bounded, and so is the queue. A request runs at once while there is a place for it; else it waits in the lane
of its priority. When a place is free again,

- interactive requests are before background ones, except that every so often (`background_share`) background is next,
  so that it never starves;
- in a lane the tenants take turns, each with its oldest request first, however many each has waiting;
- a tenant or priority at a bound of its own is passed over until one of its requests has ended.

The wait is estimated from how long places are held (Little's law: places / mean time held is the rate at which they
become free). It is a guess, so it only ever refuses what would have to wait; nothing is known before the first request
has ended. Every step is O(1), whatever waits.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from spillway.errors import DeadlineUnmeetable, QueueFull

from .admission_settings import AdmissionSettings

WEIGHT = 0.1
"""Of the last request in the mean time a place is held."""
FIRST_TOKEN_S = 60.0
"""The least time to a first token is looked for among those of one to two times so long."""
RETRY_S = (0.05, 60.0)
"""Least and most that who is sent away is told to wait."""
UNKNOWN_RETRY_S = 1.0


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's place, or its place in the queue. `since` is when it came, then when it began to run."""

    tenant: str
    background: bool
    since: float
    running: bool = False
    waited_s: float = 0.0

    def __repr__(self) -> str:
        kind = "background" if self.background else "interactive"
        return f"<Ticket {self.tenant} {kind} {'running' if self.running else 'waiting'}>"


@dataclass(slots=True)
class Lane:
    """The requests of one priority. `turns`: tenants whose next request may run, the one in turn first."""

    max_running: int
    max_waiting: int
    running: int = 0
    waiting: int = 0
    turns: OrderedDict[str, OrderedDict[Ticket, None]] = field(default_factory=OrderedDict)
    held_back: dict[str, OrderedDict[Ticket, None]] = field(default_factory=dict)
    """The same of tenants that are at a bound of their own."""

    @property
    def ready(self) -> bool:
        return bool(self.turns) and self.running < self.max_running

    def queue(self, tenant: str) -> OrderedDict[Ticket, None] | None:
        return self.turns.get(tenant) or self.held_back.get(tenant)

    def drop(self, ticket: Ticket) -> None:
        """Take a waiting ticket out."""
        for queues in (self.turns, self.held_back):
            queue = queues.get(ticket.tenant)
            if queue is not None:
                del queue[ticket]
                if not queue:
                    del queues[ticket.tenant]
        self.waiting -= 1


class Admission:
    """Decides from memory."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        places, seats = settings.max_running, settings.max_waiting
        background = settings.background_max_waiting
        self._interactive = Lane(places, seats)
        self._background = Lane(
            min(places, settings.background_max_running or places),
            seats // 2 if background is None else min(seats, background),
        )
        self._tenant_places = settings.tenant_max_running or places + 1  # which is never reached
        self._tenant_seats = seats if settings.tenant_max_waiting is None else settings.tenant_max_waiting
        self._running_of: dict[str, int] = {}
        self._waiting_of: dict[str, int] = {}
        self._credit = 0.0  # of background, in places
        self._turned_away = 0  # told to come back when as many places have become free
        self._held_s: float | None = None
        self._first_tokens: tuple[float, float | None, float | None] = (0.0, None, None)  # since, least now, least then
        self.running = 0
        self.waiting = 0

    def offer(self, tenant: str, *, background: bool, now: float, left_s: float) -> Ticket:
        """Take a request that has `left_s` seconds left: a ticket that runs or waits.

        Raises QueueFull, or DeadlineUnmeetable where it would have to wait for longer than it can.
        """
        lane = self._background if background else self._interactive
        ticket = Ticket(tenant, background, now)
        if (
            self.running < self._settings.max_running
            and lane.running < lane.max_running
            and self._running_of.get(tenant, 0) < self._tenant_places
        ):
            self._run(ticket, lane)
            return ticket
        self._refuse_if_full(lane, tenant)
        wait_s = self._wait_s(lane, tenant)
        if wait_s is not None and wait_s + self.least_first_token_s > left_s:
            raise DeadlineUnmeetable(
                f"about {wait_s:.3g} s in the queue and {self.least_first_token_s:.3g} s to a first token do not fit "
                f"the {left_s:.3g} s left",
                retry_after_s=_retry(wait_s),
            )
        queues = lane.held_back if self._at_bound(tenant) else lane.turns
        queues.setdefault(tenant, OrderedDict())[ticket] = None
        lane.waiting += 1
        self.waiting += 1
        self._waiting_of[tenant] = self._waiting_of.get(tenant, 0) + 1
        return ticket

    def end(self, ticket: Ticket, now: float) -> list[Ticket]:
        """Take a ticket back, whether it ran or waited, and return those that run from now on."""
        if not ticket.running:
            self._unwait(ticket)
            return []
        ticket.running = False
        held_s = now - ticket.since
        self._held_s = held_s if self._held_s is None else self._held_s + WEIGHT * (held_s - self._held_s)
        lane = self._background if ticket.background else self._interactive
        lane.running -= 1
        self.running -= 1
        _less(self._running_of, ticket.tenant)
        self._turned_away = max(0, self._turned_away - 1)
        if not self.waiting:
            return []
        for one in (self._interactive, self._background):
            if not self._at_bound(ticket.tenant) and ticket.tenant in one.held_back:
                one.turns[ticket.tenant] = one.held_back.pop(ticket.tenant)
        return self._fill(now)

    def first_token(self, seconds: float, now: float) -> None:
        """A target gave its first token `seconds` after it was asked."""
        since, least, before = self._first_tokens
        if now - since >= FIRST_TOKEN_S:
            since, least, before = now, None, least
        self._first_tokens = (since, seconds if least is None else min(least, seconds), before)

    @property
    def least_first_token_s(self) -> float:
        """Least time to a first token that was seen lately; 0 where none was."""
        return min((each for each in self._first_tokens[1:] if each is not None), default=0.0)

    def _run(self, ticket: Ticket, lane: Lane) -> None:
        ticket.running = True
        lane.running += 1
        self.running += 1
        self._running_of[ticket.tenant] = self._running_of.get(ticket.tenant, 0) + 1
        if self.waiting and self._at_bound(ticket.tenant):
            for one in (self._interactive, self._background):
                if ticket.tenant in one.turns:
                    one.held_back[ticket.tenant] = one.turns.pop(ticket.tenant)

    def _fill(self, now: float) -> list[Ticket]:
        """Give free places to those in turn."""
        begun: list[Ticket] = []
        while self.running < self._settings.max_running and (lane := self._next_lane()) is not None:
            tenant, queue = next(iter(lane.turns.items()))
            ticket = next(iter(queue))
            self._unwait(ticket)
            ticket.waited_s, ticket.since = now - ticket.since, now
            if tenant in lane.turns:
                lane.turns.move_to_end(tenant)
            self._run(ticket, lane)
            begun.append(ticket)
        return begun

    def _next_lane(self) -> Lane | None:
        if not self._background.ready:
            return self._interactive if self._interactive.ready else None
        if not self._interactive.ready:
            return self._background
        self._credit += self._settings.background_share
        if self._credit < 1 - 1e-9:
            return self._interactive
        self._credit -= 1
        return self._background

    def _unwait(self, ticket: Ticket) -> None:
        lane = self._background if ticket.background else self._interactive
        lane.drop(ticket)
        self.waiting -= 1
        _less(self._waiting_of, ticket.tenant)

    def _at_bound(self, tenant: str) -> bool:
        return self._running_of.get(tenant, 0) >= self._tenant_places

    def _refuse_if_full(self, lane: Lane, tenant: str) -> None:
        if self.waiting >= self._settings.max_waiting:
            said, resource = f"{self.waiting} requests wait already", "router"
        elif lane.waiting >= lane.max_waiting:
            said, resource = f"{lane.waiting} background requests wait already", "background"
        elif self._waiting_of.get(tenant, 0) >= self._tenant_seats:
            said, resource = f"{self._tenant_seats} requests of tenant {tenant} wait already", tenant
        else:
            return
        # Each is told to come after those sent away before it, or all of them would come at once.
        self._turned_away += 1
        place_s = self._place_s
        retry_s = UNKNOWN_RETRY_S if place_s is None else (self.waiting + self._turned_away) * place_s
        raise QueueFull(said, retry_after_s=_retry(retry_s), resource=resource)

    def _wait_s(self, lane: Lane, tenant: str) -> float | None:
        """Seconds until a request of `tenant` would run, if it came to `lane` now; None: unknown."""
        place_s = self._place_s
        if place_s is None:
            return None
        queue = lane.queue(tenant)
        own = len(queue) if queue is not None else 0
        ahead = min(lane.waiting, (own + 1) * (len(lane.turns) + len(lane.held_back)))
        share, other = self._settings.background_share, self._interactive
        if lane is self._interactive:
            share, other = 1 - share, self._background
        places = ahead + 1 + min(other.waiting, (ahead + 1) * (1 / share - 1))
        return places * place_s

    @property
    def _place_s(self) -> float | None:
        """Seconds between two places becoming free while all are taken; None: unknown."""
        return None if self._held_s is None else self._held_s / self._settings.max_running

    def __repr__(self) -> str:
        return f"<Admission {self.running} running {self.waiting} waiting>"


def _less(counts: dict[str, int], name: str) -> None:
    """Count down; what is at 0 is forgotten, or every tenant ever seen would stay."""
    if counts[name] == 1:
        del counts[name]
    else:
        counts[name] -= 1


def _retry(seconds: float) -> float:
    least, most = RETRY_S
    return min(most, max(least, seconds))
