"""Limits per minute: the arithmetic. Pure, with `now` handed in.

A sliding log: every reservation counts from the moment it was made until WINDOW_S later, with what it reserved or, once
settled, with what it used. So no 60 seconds, wherever they begin, see more than the limit; a token bucket or GCRA lets
up to twice as much through (a full burst and a full refill), and a fixed window likewise around its edge. A reservation
that nobody settles leaves with the window: nothing leaks. The same rules run as a script on the shared store
(limiter.py); `Window` is what one proxy goes by while the store is away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

WINDOW_S = 60.0
REQUESTS, TOKENS = "requests_per_minute", "tokens_per_minute"
NAMES = (REQUESTS, TOKENS)
CLOSED = "closed_by_provider"
BYTES_PER_TOKEN = 3
"""UTF-8 bytes per token before the provider has counted: four characters a token undercounts Chinese by 76 %."""


class Amounts(NamedTuple):
    """What a call takes of each limit."""

    requests: int
    tokens: int


NOTHING = Amounts(0, 0)


class Limits(NamedTuple):
    """What may pass in any WINDOW_S. None: no limit."""

    requests: int | None = None
    tokens: int | None = None

    def share(self, replicas: int) -> Limits:
        """What one of `replicas` proxies may let through on its own: never without limit, never nothing."""
        requests, tokens = (None if limit is None else max(1, limit // max(1, replicas)) for limit in self)
        return Limits(requests, tokens)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call may go; else which limit holds it, and for how many seconds.

    `wait_s` None: it never fits, because it alone is more than the limit.
    """

    allowed: bool
    limit: str = ""
    wait_s: float | None = 0.0


ALLOWED = Decision(True)


def tokens_of(size: int) -> int:
    """Tokens that `size` UTF-8 bytes are taken for."""
    return -(-size // BYTES_PER_TOKEN)


def estimate(*, prompt_tokens: int, max_tokens: int | None, choices: int, default: int, limits: Limits) -> Amounts:
    """What to reserve for a call: its prompt and the longest answer it asks for.

    Where the caller sets no longest answer, `default` tokens are taken, or what the limit leaves beside the prompt.
    """
    if max_tokens is None:
        answer = default * choices
        if limits.tokens is not None:
            answer = min(answer, max(0, limits.tokens - prompt_tokens))
    else:
        answer = max_tokens * choices
    return Amounts(1, prompt_tokens + answer)


class Window:
    """The sliding log of one proxy, for one provider."""

    def __init__(self) -> None:
        self._log: deque[tuple[float, str]] = deque()
        self._held: dict[str, Amounts] = {}
        self.totals = [0, 0]

    def reserve(self, id: str, amounts: Amounts, limits: Limits, now: float) -> Decision:
        """Take `amounts` of all limits at once, or of none. The same `id` counts once."""
        self._forget(now)
        if id in self._held:
            return ALLOWED
        short = [at for at, limit in enumerate(limits) if limit is not None and self.totals[at] + amounts[at] > limit]
        if not short:
            self._add(id, amounts, now)
            return ALLOWED
        for at in short:
            if amounts[at] > (limits[at] or 0):
                return Decision(False, NAMES[at], None)
        return Decision(False, NAMES[short[0]], self._wait(amounts, limits, now))

    def record(self, id: str, amounts: Amounts, now: float) -> None:
        """Count what the shared store has let through by way of this proxy."""
        self._forget(now)
        if id not in self._held:
            self._add(id, amounts, now)

    def settle(self, id: str, used: Amounts, now: float) -> None:
        """Count `used` for `id` instead of what it reserved. More than once is the same as once."""
        self._forget(now)
        held = self._held.get(id)
        if held is not None:
            self._held[id] = used
            for at in range(len(NAMES)):
                self.totals[at] += used[at] - held[at]

    def _add(self, id: str, amounts: Amounts, now: float) -> None:
        self._log.append((now, id))
        self._held[id] = amounts
        for at, amount in enumerate(amounts):
            self.totals[at] += amount

    def _forget(self, now: float) -> None:
        while self._log and self._log[0][0] <= now - WINDOW_S:
            _, id = self._log.popleft()
            for at, amount in enumerate(self._held.pop(id)):
                self.totals[at] -= amount

    def _wait(self, amounts: Amounts, limits: Limits, now: float) -> float:
        left = list(self.totals)
        for began, id in self._log:
            for at, amount in enumerate(self._held[id]):
                left[at] -= amount
            if all(limit is None or left[at] + amounts[at] <= limit for at, limit in enumerate(limits)):
                return began + WINDOW_S - now
        return WINDOW_S

    def __repr__(self) -> str:
        return f"<Window {self.totals[0]} requests, {self.totals[1]} tokens>"
