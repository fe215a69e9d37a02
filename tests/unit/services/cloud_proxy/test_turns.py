"""Whose turn it is."""

from __future__ import annotations

from collections import Counter

from services.cloud_proxy.turns import Turn, Turns


def turn(tenant: str, *, background: bool = False, weight: float = 1.0, model: str = "m") -> Turn:
    return Turn(tenant, background, frozenset({"", f"model:{model}", f"tenant:{tenant}"}), weight)


def served(turns: Turns, count: int) -> list[Turn]:
    found = []
    for _ in range(count):
        one = turns.next()
        assert one is not None
        turns.serve(one)
        found.append(one)
    return found


def test_tenants_take_turns_however_many_calls_each_has_waiting() -> None:
    turns = Turns()
    for _ in range(100):
        turns.enter(turn("loud"))
    for _ in range(5):
        turns.enter(turn("quiet"))
    assert Counter(one.tenant for one in served(turns, 10)) == {"loud": 5, "quiet": 5}
    assert repr(turns) == "<Turns 95 waiting>"


def test_a_tenant_of_heavy_calls_has_fewer_of_them() -> None:
    turns = Turns()
    for _ in range(50):
        turns.enter(turn("heavy", weight=0.4))
        turns.enter(turn("light", weight=0.1))
    found = Counter(one.tenant for one in served(turns, 40))
    assert found == {"light": 32, "heavy": 8}


def test_who_was_away_has_saved_nothing_up() -> None:
    turns = Turns()
    for _ in range(20):
        turns.enter(turn("steady"))
    served(turns, 15)
    for _ in range(20):
        turns.enter(turn("late"))
    assert Counter(one.tenant for one in served(turns, 6)) == {"steady": 3, "late": 3}


def test_interactive_calls_are_first_and_background_ones_are_every_tenth() -> None:
    turns = Turns()
    for _ in range(100):
        turns.enter(turn("a"))
        turns.enter(turn("a", background=True))
    order = [one.background for one in served(turns, 100)]
    assert order[:9] == [False] * 9
    assert sum(order) == 10


def test_a_tenants_own_calls_go_in_the_order_they_came() -> None:
    turns, came = Turns(), [turn("a") for _ in range(5)]
    for one in came:
        turns.enter(one)
    assert served(turns, 5) == came


def test_what_a_scope_holds_is_passed_over() -> None:
    turns = Turns()
    first, other = turn("a", model="big"), turn("a", model="small")
    turns.enter(first)
    turns.enter(other)
    assert turns.next({"model:big"}) is other
    assert turns.next({"tenant:a"}) is None
    assert turns.next() is first


def test_who_leaves_has_had_nothing_and_leaving_twice_is_the_same_as_once() -> None:
    turns, one, other = Turns(), turn("a"), turn("b")
    turns.enter(one)
    turns.enter(other)
    for _ in range(2):
        turns.leave(one)
    turns.serve(one)
    assert len(turns) == 1
    assert served(turns, 1) == [other]
    assert turns.next() is None
