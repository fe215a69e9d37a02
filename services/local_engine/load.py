"""The engine's load, as the engine itself last reported it."""

from __future__ import annotations

from dataclasses import dataclass

from spillway import v1
from spillway.deadline import Clock

INTERVAL_S = 1.0
"""Tokens per second are counted over intervals of this length."""


@dataclass(slots=True)
class LoadMeter:
    """Keeps the last report and a rate. All on the event loop."""

    clock: Clock
    sequence: int = 0
    reported_at: float | None = None
    _running: int | None = None
    _waiting: int | None = None
    _kv_cache_usage: float | None = None
    _prefix_queries: int = 0
    _prefix_hits: int = 0
    _interval_from: float = 0.0
    _interval_tokens: int = 0
    _rate: float | None = None

    def record(
        self,
        *,
        running: int | None = None,
        waiting: int | None = None,
        kv_cache_usage: float | None = None,
        prefix_queries: int = 0,
        prefix_hits: int = 0,
        tokens: int = 0,
    ) -> None:
        """Take one report; what it does not say stays as it was. `tokens` were generated since the last one."""
        now = self.clock()
        if self.reported_at is None:
            self._interval_from = now
        self.sequence += 1
        self.reported_at = now
        if running is not None:
            self._running, self._waiting, self._kv_cache_usage = running, waiting, kv_cache_usage
        self._prefix_queries += prefix_queries
        self._prefix_hits += prefix_hits
        self._interval_tokens += tokens
        self._roll(now)

    def load(self, state: v1.EngineState.ValueType, unfinished: int | None) -> v1.Load:
        """Return the load now. `unfinished` is how many requests the engine has, where that is known.

        An engine reports when it takes a step; after a cancel it may take none, so its last word is held against
        `unfinished`.
        """
        now = self.clock()
        load = v1.Load(state=state, sequence=self.sequence)
        if self.reported_at is None:
            return load
        self._roll(now)
        load.age_ms = (now - self.reported_at) * 1000
        running, usage = self._running, self._kv_cache_usage
        waiting = self._waiting
        if unfinished is not None:
            running = min(unfinished if running is None else running, unfinished)
            waiting = unfinished - running
            if not unfinished and usage is not None:
                usage = 0.0  # no request holds a block; the report of that comes with the next step
        if running is not None:
            load.running = running
        if waiting is not None:
            load.waiting = waiting
        if usage is not None:
            load.kv_cache_usage = usage
        if self._rate is not None:
            load.tokens_per_second = self._rate
        if self._prefix_queries:
            load.prefix_cache_hit_rate = self._prefix_hits / self._prefix_queries
        return load

    def _roll(self, now: float) -> None:
        length = now - self._interval_from
        if length >= INTERVAL_S:
            self._rate = self._interval_tokens / length
            self._interval_from, self._interval_tokens = now, 0
