"""The engine's load."""

from __future__ import annotations

from services.local_engine.load import LoadMeter
from spillway import v1
from spillway.testing.clock import HandClock

SERVING = v1.ENGINE_STATE_SERVING


def test_before_the_first_report_the_load_is_unknown_not_zero() -> None:
    load = LoadMeter(HandClock()).load(v1.ENGINE_STATE_STARTING, None)
    assert load == v1.Load(state=v1.ENGINE_STATE_STARTING)


def test_a_load_says_how_old_its_report_is() -> None:
    clock = HandClock()
    meter = LoadMeter(clock)
    meter.record(running=2, waiting=1, kv_cache_usage=0.5)
    clock.advance(0.25)
    load = meter.load(SERVING, 3)
    assert (load.sequence, load.age_ms) == (1, 250)
    assert (load.running, load.waiting, load.kv_cache_usage) == (2, 1, 0.5)
    assert not load.HasField("tokens_per_second")
    assert not load.HasField("prefix_cache_hit_rate")


def test_a_report_without_scheduler_keeps_what_was_known() -> None:
    meter = LoadMeter(HandClock())
    meter.record(running=2, waiting=1, kv_cache_usage=0.5)
    meter.record(tokens=4)
    assert meter.load(SERVING, 3).running == 2


def test_after_a_cancel_the_load_falls_though_the_engine_reports_no_more() -> None:
    meter = LoadMeter(HandClock())
    meter.record(running=2, waiting=0, kv_cache_usage=0.5)
    load = meter.load(SERVING, 0)
    assert (load.running, load.waiting, load.kv_cache_usage) == (0, 0, 0.0)


def test_requests_the_engine_has_not_seen_yet_are_waiting() -> None:
    meter = LoadMeter(HandClock())
    meter.record(running=1, waiting=0, kv_cache_usage=0.1)
    load = meter.load(SERVING, 5)
    assert (load.running, load.waiting) == (1, 4)


def test_tokens_per_second_are_those_of_the_last_interval_and_fall_when_it_rests() -> None:
    clock = HandClock()
    meter = LoadMeter(clock)
    meter.record(tokens=0)
    for _ in range(4):
        clock.advance(0.25)
        meter.record(tokens=25)
    assert meter.load(SERVING, 1).tokens_per_second == 100
    clock.advance(10)
    assert meter.load(SERVING, 0).tokens_per_second == 0


def test_the_hit_rate_is_that_of_all_prompts_since_the_start() -> None:
    meter = LoadMeter(HandClock())
    meter.record(prefix_queries=30, prefix_hits=0)
    meter.record(prefix_queries=10, prefix_hits=10)
    assert meter.load(SERVING, 0).prefix_cache_hit_rate == 0.25
