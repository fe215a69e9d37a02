"""Limits: the arithmetic. Pure, with `now` handed in.

A sliding window of SLICES slices. Every reservation counts from the moment it was made until its whole slice is as old
as the window and its margin, with what it reserved or, once settled, with what it used. So no WINDOW_S, wherever they
begin, see more than the limit; a token bucket or GCRA lets up to twice as much through (a full burst and a full
refill), and a fixed window likewise around its edge. What was counted is summed per slice: a decision costs the same
whatever is in the window. A reservation that nobody settles leaves with the window: nothing leaks. The same rules run
as scripts on the shared store (limit_scripts.py); `Window` is what one proxy goes by while the store is away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

WINDOW_S = 60.0
SLICES = 240
MARGIN = 4
"""Slices beyond the window (1 s of 60 s): a call arrives at its provider later than it was let through, some later than
others, and it is the provider who counts."""
KEPT = SLICES + MARGIN
DAY_S = 86_400
CONCURRENCY_WAIT_S = 0.1
"""Nobody knows when a running call ends: whoever waits for its place asks again after so long."""

REQUESTS, TOKENS = "requests_per_minute", "tokens_per_minute"
INPUT_TOKENS, OUTPUT_TOKENS = "input_tokens_per_minute", "output_tokens_per_minute"
CONCURRENCY, NANO_USD = "concurrency", "nano_usd_per_day"
NAMES = (REQUESTS, TOKENS, INPUT_TOKENS, OUTPUT_TOKENS, CONCURRENCY, NANO_USD)
IN_WINDOW = 4
"""The first of NAMES are counted in the window; a provider's headers may tell of them."""
CLOSED = "closed_by_provider"
BYTES_PER_TOKEN = 3
"""UTF-8 bytes per token before the provider has counted: four characters a token undercounts Chinese by 76 %."""


class Amounts(NamedTuple):
    """What a call takes: requests, tokens of its prompt and of its answer, 1e-9 USD."""

    requests: int = 0
    input: int = 0
    output: int = 0
    nano_usd: int = 0

    @property
    def windowed(self) -> tuple[int, int, int, int]:
        """By the first of NAMES."""
        return self.requests, self.input + self.output, self.input, self.output


NOTHING = Amounts()


class Limits(NamedTuple):
    """What may pass, by NAMES. None: no limit."""

    requests: int | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    concurrency: int | None = None
    nano_usd: int | None = None

    def share(self, replicas: int) -> Limits:
        """What one of `replicas` proxies may let through on its own: never without limit, never nothing."""
        return Limits(*(None if limit is None else max(1, limit // max(1, replicas)) for limit in self))

    def within(self, others: Limits) -> Limits:
        """The tighter of both, limit by limit."""
        pairs = zip(self, others, strict=True)
        return Limits(*(min((each for each in pair if each is not None), default=None) for pair in pairs))

    def weight(self, amounts: Amounts) -> float:
        """The largest share that `amounts` are of a limit of the window; 0 where there is none."""
        found = zip(amounts.windowed, self[:IN_WINDOW], strict=True)
        return max((amount / limit for amount, limit in found if limit), default=0.0)


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Scope:
    """What limits hold for: `name` is empty for the provider, else model:NAME or tenant:NAME.

    `learns`: it is here that the provider's own word counts.
    """

    name: str
    limits: Limits = UNLIMITED
    learns: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call may go; else which limit of which scope holds it, and for how many seconds.

    `wait_s` None: it never fits, because it alone is more than the limit.
    """

    allowed: bool
    limit: str = ""
    wait_s: float | None = 0.0
    scope: str = ""


ALLOWED = Decision(True)


def tokens_of(size: int) -> int:
    """Tokens that `size` UTF-8 bytes are taken for."""
    return -(-size // BYTES_PER_TOKEN)


def estimate(
    *, prompt_tokens: int, max_tokens: int | None, choices: int, expected: int, scopes: Iterable[Scope]
) -> Amounts:
    """What to reserve for a call: its prompt, and `expected` tokens a choice, never more than it asks for.

    Where the caller sets no longest answer, it is no more than what the limits leave beside the prompt.
    """
    if max_tokens is not None:
        return Amounts(1, prompt_tokens, min(expected, max_tokens) * choices)
    answer = expected * choices
    for scope in scopes:
        if scope.limits.tokens is not None:
            answer = min(answer, max(0, scope.limits.tokens - prompt_tokens))
        if scope.limits.output_tokens is not None:
            answer = min(answer, scope.limits.output_tokens)
    return Amounts(1, prompt_tokens, answer)


@dataclass(slots=True)
class Held:
    """What a running call counts for, and since when."""

    slice: int
    day: int
    amounts: Amounts


class Window:
    """What one proxy has let through in one scope. `now` is seconds of any clock, `day` the day of money."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._slice_s = window_s / SLICES
        self._slices: dict[int, list[int]] = {}
        self._held: dict[str, Held] = {}
        self._day = 0
        self.totals = [0, 0, 0]
        """Requests, tokens of prompts, tokens of answers."""
        self.nano_usd = 0

    @property
    def running(self) -> int:
        return len(self._held)

    @property
    def empty(self) -> bool:
        return not self._slices and not self._held and not self.nano_usd

    def holds(self, id: str) -> bool:
        return id in self._held

    def short(self, amounts: Amounts, limits: Limits, now: float, wall_s: float) -> Decision:
        """Say whether `amounts` fit all limits, and of those they do not fit which holds them longest."""
        self.forget(now)
        day, passed_s = divmod(wall_s, DAY_S)
        self._begin(int(day))
        requests, input, output = self.totals
        taken = (requests, input + output, input, output, self.running, self.nano_usd)
        asked = (*amounts.windowed, 1, amounts.nano_usd)
        found = ALLOWED
        for at, (limit, before, amount) in enumerate(zip(limits, taken, asked, strict=True)):
            if limit is None or before + amount <= limit:
                continue
            if amount > limit:
                return Decision(False, NAMES[at], None)
            if at < IN_WINDOW:
                wait_s = self._wait_s(at, before + amount - limit, now)
            else:
                wait_s = CONCURRENCY_WAIT_S if NAMES[at] == CONCURRENCY else DAY_S - passed_s
            if found.allowed or wait_s > (found.wait_s or 0):
                found = Decision(False, NAMES[at], wait_s)
        return found

    def add(self, id: str, amounts: Amounts, now: float, day: int) -> None:
        """Count `amounts` for `id`, once."""
        self.forget(now)
        if id not in self._held:
            self._held[id] = Held(self._slice(now), day, amounts)
            self._count(self._slice(now), amounts[:3])
            self._spend(amounts.nano_usd, day, day)

    def change(self, id: str, amounts: Amounts, now: float, *, day: int, final: bool) -> None:
        """Count `amounts` for `id` from now on; `final`: it has ended, and nothing of it changes any more.

        What it takes more counts from now, what it gives back is taken from where it counted.
        """
        self.forget(now)
        held = self._held.get(id)
        if held is None:
            return
        more = [new - old for new, old in zip(amounts, held.amounts, strict=True)]
        self._count(self._slice(now), [max(0, each) for each in more[:3]])
        if held.slice in self._slices:
            self._count(held.slice, [min(0, each) for each in more[:3]])
        self._spend(more[3], held.day, day)
        held.amounts = amounts
        if final:
            del self._held[id]

    def forget(self, now: float) -> None:
        """Let go what has left the window."""
        first = self._slice(now) - KEPT
        while self._slices and (oldest := next(iter(self._slices))) < first:
            for at, amount in enumerate(self._slices.pop(oldest)):
                self.totals[at] -= amount

    def _slice(self, now: float) -> int:
        return math.floor(now / self._slice_s)

    def _count(self, slice: int, amounts: Sequence[int]) -> None:
        if any(amounts):
            counted = self._slices.setdefault(slice, [0, 0, 0])
            for at, amount in enumerate(amounts):
                counted[at] += amount
                self.totals[at] += amount

    def _spend(self, nano_usd: int, since: int, day: int) -> None:
        """What was reserved on another day is not given back to this one."""
        self._begin(day)
        if nano_usd > 0 or since == day:
            self.nano_usd += nano_usd

    def _begin(self, day: int) -> None:
        if day != self._day:
            self._day, self.nano_usd = day, 0

    def _wait_s(self, at: int, need: int, now: float) -> float:
        freed = accumulate(Amounts(*counted).windowed[at] for counted in self._slices.values())
        for slice, left in zip(self._slices, freed, strict=True):
            if left >= need:
                return (slice + KEPT + 1) * self._slice_s - now
        return (KEPT + 1) * self._slice_s

    def __repr__(self) -> str:
        requests, input, output = self.totals
        return f"<Window {requests} requests, {input} + {output} tokens, {self.running} running>"


def decide(
    windows: Mapping[str, Window], scopes: Sequence[Scope], id: str, amounts: Amounts, now: float, *, wall_s: float
) -> Decision:
    """Take `amounts` of all limits of all `scopes` at once, or of none. The same `id` counts once.

    `wall_s`: seconds since the epoch, for the day of money.
    """
    if windows[scopes[0].name].holds(id):
        return ALLOWED
    found = ALLOWED
    for scope in scopes:
        short = windows[scope.name].short(amounts, scope.limits, now, wall_s)
        if not short.allowed and (found.allowed or short.wait_s is None or short.wait_s > (found.wait_s or 0)):
            found = Decision(False, short.limit, short.wait_s, scope.name)
            if short.wait_s is None:
                return found
    if found.allowed:
        for scope in scopes:
            windows[scope.name].add(id, amounts, now, int(wall_s // DAY_S))
    return found
