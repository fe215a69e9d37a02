"""All breakers of one router that stands alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.router.breaker import Closed, Event, HalfOpened, Opened, State
from services.router.breaker_settings import BreakersSettings
from services.router.breakers import Breakers
from services.router.journal import Attempt
from services.router.observation import Observation
from services.router.outcome import Outcome
from services.router.target import Target
from spillway import v1
from spillway.errors import BreakerOpen, TargetDown
from spillway.testing.clock import HandClock

LOCAL = Target("local", "local", "127.0.0.1:1")


def alone(clock: HandClock, listeners: Sequence[list[Event]] = (), draw: float = 0.5) -> Breakers:
    return Breakers(
        BreakersSettings(),
        store=None,
        clock=clock,
        draw=lambda: draw,
        listeners=[heard.append for heard in listeners],
    )


def seen(clock: HandClock, outcome: Outcome, accepted: bool | None = None) -> Observation:
    return Observation(outcome, clock(), accepted=accepted)


def down(breakers: Breakers, clock: HandClock, target: str = "local") -> None:
    for _ in range(3):
        breakers.record(target, seen(clock, Outcome.DOWN))


def refused(breakers: Breakers, clock: HandClock, kind: str) -> None:
    for _ in range(20):
        breakers.record("local", seen(clock, Outcome.REFUSED, accepted=False), kind=kind)


async def test_a_sound_target_is_not_named_and_needs_no_probe() -> None:
    clock = HandClock()
    breakers = alone(clock)
    breakers.record("local", seen(clock, Outcome.ANSWERED))
    assert breakers.snapshot() == {}
    assert await breakers.may_probe("local") is None
    assert await breakers.may_probe("never seen") is None
    assert repr(breakers) == "<Breakers all closed>"


async def test_an_open_target_may_not_be_tried_unless_nothing_else_may_answer() -> None:
    clock = HandClock()
    breakers = alone(clock)
    down(breakers, clock)
    with pytest.raises(BreakerOpen, match="open for 26 s more: 3 failures in a row") as refusal:
        await breakers.may_probe("local")
    assert refusal.value.retry_after_s == pytest.approx(26.25)
    assert refusal.value.resource == "local"
    assert await breakers.may_probe("local", advice=True) is None
    assert repr(breakers) == "<Breakers local open>"


async def test_of_many_requests_one_is_the_probe() -> None:
    clock = HandClock()
    breakers = alone(clock)
    down(breakers, clock)
    clock.advance(27)
    assert breakers.snapshot()["local"].objection(0.9) == ""
    probe = await breakers.may_probe("local")
    assert probe is not None
    with pytest.raises(BreakerOpen, match="being probed"):
        await breakers.may_probe("local")
    breakers.record("local", seen(clock, Outcome.ANSWERED), probe=probe)
    assert breakers.snapshot()["local"].state is State.CLOSED
    assert await breakers.may_probe("local") is None


async def test_transport_and_quality_are_separate() -> None:
    clock = HandClock()
    breakers = alone(clock)
    refused(breakers, clock, "extract")
    assert breakers.snapshot() == {}
    assert breakers.snapshot("summarize") == {}
    assert breakers.snapshot("extract")["local"].state is State.OPEN
    with pytest.raises(BreakerOpen):
        await breakers.may_probe("local", "extract")
    assert await breakers.may_probe("local", "summarize") is None


async def test_the_worse_of_transport_and_quality_is_shown() -> None:
    clock = HandClock()
    breakers = alone(clock)
    refused(breakers, clock, "extract")
    clock.advance(10)
    down(breakers, clock)
    assert breakers.snapshot("extract")["local"].why == "3 failures in a row"
    clock.advance(17)
    assert breakers.snapshot("extract")["local"].why == "3 failures in a row"  # quality is half open by now


async def test_a_probe_of_quality_that_fails_in_transport_makes_room_for_the_next() -> None:
    clock = HandClock()
    breakers = alone(clock)
    refused(breakers, clock, "extract")
    clock.advance(30)
    probe = await breakers.may_probe("local", "extract")
    assert probe is not None
    with pytest.raises(BreakerOpen):
        await breakers.may_probe("local", "extract")
    breakers.record("local", seen(clock, Outcome.DOWN), probe=probe)
    assert await breakers.may_probe("local", "extract") is not None


async def test_a_probe_that_transport_refuses_takes_none_of_quality() -> None:
    clock = HandClock()
    breakers = alone(clock)
    refused(breakers, clock, "extract")
    down(breakers, clock)
    clock.advance(30)
    assert await breakers.may_probe("local") is not None
    with pytest.raises(BreakerOpen):
        await breakers.may_probe("local", "extract")
    assert breakers.snapshot("extract")["local"].why == "3 failures in a row"
    breakers.record("local", seen(clock, Outcome.ANSWERED))
    assert await breakers.may_probe("local", "extract") is not None


def test_a_settled_attempt_is_learnt_from_with_its_error() -> None:
    clock = HandClock()
    breakers = alone(clock)
    record = v1.Attempt(outcome=v1.ATTEMPT_OUTCOME_FAILED, reason="TARGET_DOWN")
    attempt = Attempt(LOCAL, 1, clock(), record, error=TargetDown("the engine is starting", retry_after_s=1))
    breakers.settle(attempt)
    assert breakers.snapshot()["local"].why == "it asked to be left alone"
    clock.advance(1)
    attempt.error = TargetDown()
    for _ in range(3):
        breakers.settle(attempt)
    assert breakers.snapshot()["local"].state is State.OPEN


async def test_listeners_hear_every_event() -> None:
    clock, heard = HandClock(), list[Event]()
    breakers = alone(clock, [heard])
    down(breakers, clock)
    clock.advance(27)
    await breakers.share()
    breakers.record("local", seen(clock, Outcome.ANSWERED))
    assert heard == [
        Opened("local", "", "3 failures in a row", 26.25),
        HalfOpened("local", ""),
        Closed("local", "", "it answers"),
    ]


def test_a_reset_closes_transport_and_every_kind_of_work() -> None:
    clock = HandClock()
    breakers = alone(clock)
    down(breakers, clock)
    refused(breakers, clock, "extract")
    breakers.reset("local")
    assert breakers.snapshot("extract") == {}


async def simulated(*, down_s: float, apart_s: float, requests: int, draw: float, tries: int) -> list[float]:
    """When attempts reached a primary that is down for the first `down_s`, under requests `apart_s` seconds apart."""
    clock = HandClock(0.0)
    breakers = alone(clock, draw=draw)
    attempts: list[float] = []
    for _ in range(requests):
        for _ in range(tries):
            try:
                probe = await breakers.may_probe("local")
            except BreakerOpen:
                break  # the fallback answers
            attempts.append(clock())
            outcome = Outcome.DOWN if clock() < down_s else Outcome.ANSWERED
            breakers.record("local", seen(clock, outcome), probe=probe)
            if outcome is Outcome.ANSWERED:
                break
        clock.advance(apart_s)
    return attempts


@pytest.mark.parametrize("draw", [0.0, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("tries", [1, 2])
async def test_a_primary_down_for_a_minute_sees_four_of_twenty_requests_and_is_used_soon_after(
    draw: float, tries: int
) -> None:
    attempts = await simulated(down_s=60, apart_s=4, requests=20, draw=draw, tries=tries)
    assert len([at for at in attempts if at < 60]) <= 4
    assert next(at for at in attempts if at >= 60) <= 60 + 30


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
async def test_whenever_it_recovers_it_is_used_within_thirty_seconds_of_the_next_request(draw: float) -> None:
    for down_s in range(1, 200, 7):
        attempts = await simulated(down_s=down_s, apart_s=1, requests=300, draw=draw, tries=2)
        assert next(at for at in attempts if at >= down_s) <= down_s + 30 + 1
        assert len([at for at in attempts if at < down_s]) <= 3 + down_s / 25
