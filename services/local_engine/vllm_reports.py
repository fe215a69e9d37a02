"""What vLLM reports after each step: the load, and which answers have ended."""

from __future__ import annotations

import time
from typing import Any

from services.local_engine.load import LoadMeter
from services.local_engine.pace import Pace


class Reports:
    """What vLLM reports after each step: the load, and which answers have ended."""

    def __init__(self) -> None:
        self.meter = LoadMeter(time.monotonic)
        self.paces: dict[str, Pace] = {}

    def logger(self, config: Any, engine_index: int = 0) -> Any:
        """Return what vLLM calls after each step: its StatLoggerBase, in shape."""
        return _StatLogger(self)

    def take(self, scheduler: Any, iteration: Any) -> None:
        """Take one report; either part may be None."""
        cache = scheduler.prefix_cache_stats if scheduler is not None else None
        self.meter.record(
            running=None if scheduler is None else scheduler.num_running_reqs,
            waiting=None if scheduler is None else scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs,
            kv_cache_usage=None if scheduler is None else scheduler.kv_cache_usage,
            prefix_queries=0 if cache is None else cache.queries,
            prefix_hits=0 if cache is None else cache.hits,
            tokens=0 if iteration is None else iteration.num_generation_tokens,
        )
        if iteration is not None:
            for finished in iteration.finished_requests:
                pace = self.paces.get(finished.request_id)
                if pace is not None:
                    pace.end()


class _StatLogger:
    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        self._reports.take(scheduler_stats, iteration_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say yet."""

    def log(self) -> None:
        """Nothing is logged by the clock."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """The engine is never put to sleep."""
