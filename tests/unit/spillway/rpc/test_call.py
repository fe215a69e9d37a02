from __future__ import annotations

import random
from dataclasses import MISSING, fields, replace

from opentelemetry.trace import NonRecordingSpan, SpanContext

from spillway import v1
from spillway.deadline import Deadline
from spillway.rpc.admission import admit_start
from spillway.rpc.call import Call, Caller, new_id
from spillway.testing.clock import HandClock


def made(clock: HandClock, seconds: float = 60.0) -> Call:
    return Call("r", Deadline.after(seconds, clock))


def test_half_of_the_wait_for_a_first_token_is_for_lines() -> None:
    clock = HandClock()
    assert made(clock).line_s == 60.0
    call = made(clock).heard_within(24.0)
    assert call.line_s == 12.0
    clock.advance(4.0)
    assert call.line_s == 10.0


def test_the_shorter_of_two_waits_holds_and_none_outlasts_the_deadline() -> None:
    clock = HandClock()
    assert made(clock).heard_within(24.0).heard_within(30.0).line_s == 12.0
    assert made(clock).heard_within(24.0).heard_within(10.0).line_s == 5.0
    assert made(clock).heard_within(61.0).first_token is None
    assert made(clock, 8.0).heard_within(10.0).line_s == 8.0


def test_after_the_first_token_only_the_deadline_bounds_a_line() -> None:
    clock = HandClock()
    call = made(clock).heard_within(24.0)
    clock.advance(30.0)
    assert call.line_s == 30.0
    assert call.heard_within(10.0).line_s == 5.0


def test_ids_are_nobody_elses_though_an_engine_seeds_the_process() -> None:
    ids = set()
    for _ in range(2):
        random.seed(0)
        ids.add(new_id())
    assert len(ids) == 2


def test_nothing_of_a_call_is_lost_where_it_is_made_anew_field_by_field() -> None:
    clock = HandClock()
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False))
    caller, first = Caller("acme", "key"), Deadline.after(9.0, clock)
    call = Call("r", Deadline.after(60.0, clock), span, caller, hop=3, attempts_left=2, first_token=first)
    for each in fields(Call):  # one that has its default here would not be missed
        assert each.default is MISSING or getattr(call, each.name) != each.default

    assert call.onward() == replace(call, hop=4)
    start = v1.SessionStart(hop=1, attempts_left=5)
    other = Caller("beta", "other")
    assert admit_start(call, start, other) == replace(call, caller=other, hop=1, attempts_left=5)
