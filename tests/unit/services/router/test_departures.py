"""What is gone is forgotten after a while, and only then."""

from __future__ import annotations

from services.router.departures import FORGOTTEN_S, Departures


def test_what_is_gone_long_enough_is_forgotten_once() -> None:
    departures = Departures()
    assert departures.past(["a", "b"], 0.0) == []
    assert departures.past(["a"], 1.0) == []
    assert departures.past(["a"], FORGOTTEN_S) == []
    assert departures.past(["a"], 1.0 + FORGOTTEN_S) == ["b"]
    assert departures.past(["a"], 2.0 + 2 * FORGOTTEN_S) == []


def test_what_comes_back_is_not_forgotten() -> None:
    departures = Departures()
    departures.past(["a"], 0.0)
    departures.past([], 1.0)
    departures.past(["a"], 2.0)
    assert departures.past(["a"], 3.0 + FORGOTTEN_S) == []
