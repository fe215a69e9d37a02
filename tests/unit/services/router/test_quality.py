"""Refused answers turn a target off for their kind of work alone."""

from __future__ import annotations

from services.router.breaker import Closed, Event, Opened, State
from services.router.breaker_settings import QualitySettings
from services.router.quality import Quality


def quality(**settings: int) -> Quality:
    return Quality(QualitySettings.model_validate(settings), lambda: 0.0)


def off(found: Quality, kind: str = "extract", target: str = "local") -> None:
    """Turned off at 0."""
    for at in range(20):
        found.record(target, kind, at < 16, 0.0)
    assert found.standings(kind, 0)[target].state is State.OPEN


def test_over_fifteen_percent_refused_of_at_least_twenty_turns_it_off_for_that_kind_alone() -> None:
    found = quality()
    for at in range(19):
        assert found.record("local", "extract", at < 10, 0.0) == ()
    assert found.record("local", "extract", False, 0) == (Opened("local", "extract", "10 of 20 attempts failed", 25.0),)
    assert list(found.standings("extract", 0)) == ["local"]
    assert found.standings("summarize", 0) == {}
    assert found.find("cloud", "extract") is None


def test_three_refused_in_a_row_prove_nothing() -> None:
    found = quality()
    for _ in range(19):
        found.record("local", "extract", False, 0.0)
    assert found.standings("extract", 0) == {}


def test_nobodys_impossible_schema_takes_a_target_from_others() -> None:
    found = quality()
    for _ in range(1000):
        found.record("local", "json_schema impossible", False, 0.0)
        found.record("local", "json_schema sound", True, 0.0)
    assert found.standings("json_schema impossible", 0)["local"].state is State.OPEN
    assert found.standings("json_schema sound", 0) == {}


def test_it_is_probed_and_switched_back_after_some_accepted_answers() -> None:
    found = quality()
    off(found)
    events: list[Event] = []
    for at in range(3):
        breaker = found.find("local", "extract")
        assert breaker is not None
        probe = breaker.take_probe(25.0 + at)
        assert probe is not None
        assert breaker.take_probe(25.0 + at) is None
        events += found.record("local", "extract", True, 25.0 + at, probe=probe)
    assert events[-1] == Closed("local", "extract", "it answers")


def test_a_probe_without_an_answer_to_judge_makes_room_for_the_next() -> None:
    found = quality()
    off(found)
    breaker = found.find("local", "extract")
    assert breaker is not None
    found.record("local", "extract", None, 26, probe=breaker.take_probe(25))
    assert found.standings("extract", 26)["local"].probe_free


def test_it_stays_off_for_longer_while_probes_are_refused() -> None:
    found = quality()
    off(found)
    now, times = 0.0, []
    for _ in range(6):
        left = found.standings("extract", now)["local"].left_s
        times.append(round(left))
        now += left
        breaker = found.find("local", "extract")
        assert breaker is not None
        found.record("local", "extract", False, now, probe=breaker.take_probe(now))
    assert times == [25, 50, 100, 200, 273, 273]


def test_kinds_of_work_are_forgotten_when_there_are_too_many() -> None:
    found = quality(max_kinds=2)
    off(found, "a")
    off(found, "b")
    found.record("local", "a", True, 0.0)
    off(found, "c")
    assert [bool(found.standings(kind, 0)) for kind in "abc"] == [True, False, True]
    assert repr(found) == "<Quality of 2 kinds of work>"
