"""Who is answered now, who waits, and who is sent away."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.router.admission import Admission, Ticket
from services.router.admission_settings import AdmissionSettings
from spillway.errors import DeadlineUnmeetable, QueueFull


class Door:
    """An admission with a clock moved by hand."""

    def __init__(self, **settings: Any) -> None:
        self.admission = Admission(AdmissionSettings(**settings))
        self.now = 1000.0
        self.running: list[Ticket] = []

    def come(self, tenant: str = "a", *, background: bool = False, left_s: float = 1e6) -> Ticket:
        ticket = self.admission.offer(tenant, background=background, now=self.now, left_s=left_s)
        if ticket.running:
            self.running.append(ticket)
        return ticket

    def end(self, ticket: Ticket | None = None, after_s: float = 0.0) -> list[Ticket]:
        """End a request, by default the one that runs longest, and return those that begin."""
        self.now += after_s
        ticket = ticket or self.running[0]
        if ticket in self.running:
            self.running.remove(ticket)
        begun = self.admission.end(ticket, self.now)
        self.running += begun
        return begun

    def order(self, count: int) -> list[Ticket]:
        """Those that begin next, one by one."""
        return [ticket for _ in range(count) for ticket in self.end()]


def test_requests_run_up_to_the_bound_then_wait_then_are_sent_away() -> None:
    door = Door(max_running=2, max_waiting=1)
    assert [door.come().running for _ in range(3)] == [True, True, False]
    with pytest.raises(QueueFull) as caught:
        door.come()
    assert caught.value.retry_after_s == 1.0  # nothing is known yet
    assert repr(door.admission) == "<Admission 2 running 1 waiting>"


def test_the_oldest_of_a_tenant_is_next() -> None:
    door = Door(max_running=1)
    _, first, second = (door.come() for _ in range(3))
    assert door.order(2) == [first, second]


def test_a_waiter_that_leaves_frees_its_place_in_the_queue() -> None:
    door = Door(max_running=1, max_waiting=1)
    door.come()
    leaver = door.come()
    door.end(leaver)
    stayer = door.come()
    assert door.end() == [stayer]


def test_interactive_is_before_background_and_background_gets_its_share() -> None:
    door = Door(max_running=1, background_share=0.25)
    door.come()
    for _ in range(12):
        door.come(background=True)
        door.come()
    assert [ticket.background for ticket in door.order(8)] == [False, False, False, True] * 2


def test_background_that_waits_alone_gets_every_place() -> None:
    door = Door(max_running=1)
    door.come()
    waiting = [door.come(background=True) for _ in range(3)]
    assert door.order(3) == waiting


def test_tenants_take_turns_however_many_requests_each_has() -> None:
    door = Door(max_running=1)
    door.come("flood")
    for _ in range(50):
        door.come("flood")
    door.come("b"), door.come("c")
    assert [ticket.tenant for ticket in door.order(5)] == ["flood", "b", "c", "flood", "flood"]


def test_a_tenant_at_its_bound_waits_and_lets_others_pass() -> None:
    door = Door(max_running=3, tenant_max_running=1)
    own = door.come("a")
    second = door.come("a")
    assert not second.running
    assert door.come("b").running
    assert door.end(own) == [second]


def test_a_bound_holds_over_both_priorities() -> None:
    door = Door(max_running=2, background_max_running=1, tenant_max_running=1)
    other = door.come("b", background=True)
    waiting = door.come("a", background=True)
    own = door.come("a")
    assert door.end(other) == []  # the place is free, and its tenant is at its bound
    assert door.end(own) == [waiting]


def test_a_tenants_share_of_the_queue_is_bounded() -> None:
    door = Door(max_running=1, tenant_max_waiting=1)
    door.come("a"), door.come("a")
    with pytest.raises(QueueFull, match="tenant a") as caught:
        door.come("a")
    assert caught.value.resource == "a"
    door.come("b")


def test_background_never_fills_the_queue() -> None:
    door = Door(max_running=1, max_waiting=4)
    door.come()
    for _ in range(2):
        door.come(background=True)
    with pytest.raises(QueueFull, match="background"):
        door.come(background=True)
    door.come()


def test_background_may_be_kept_from_all_places() -> None:
    door = Door(max_running=2, background_max_running=1)
    assert door.come(background=True).running
    assert not door.come(background=True).running
    assert door.come().running


def test_those_sent_away_are_told_to_come_when_the_queue_has_drained_one_after_the_other() -> None:
    door = Door(max_running=2, max_waiting=2)
    door.come()
    door.end(after_s=4.0)  # so two places become free in 4 s, one every 2 s
    for _ in range(4):
        door.come()
    told = []
    for _ in range(3):
        with pytest.raises(QueueFull) as caught:
            door.come()
        told.append(caught.value.retry_after_s)
    assert told == [6.0, 8.0, 10.0]


def test_a_deadline_that_the_queue_would_pass_is_refused_at_the_door() -> None:
    door = Door(max_running=1)
    door.come()
    door.end(after_s=2.0)
    door.admission.first_token(0.5, door.now)
    door.come()
    with pytest.raises(DeadlineUnmeetable, match=r"about 2 s in the queue and 0.5 s to a first token"):
        door.come(left_s=2.4)
    assert not door.come(left_s=2.6).running
    with pytest.raises(DeadlineUnmeetable, match="about 4 s"):
        door.come(left_s=2.6)
    assert not door.come("b", left_s=5).running  # in turn after one of the other tenant's


def test_who_need_not_wait_is_not_refused_for_its_deadline() -> None:
    door = Door(max_running=1)
    door.come()
    door.end(after_s=100.0)
    assert door.come(left_s=0.01).running


def test_background_expects_to_wait_behind_interactive_requests() -> None:
    door = Door(max_running=1, background_share=0.1)
    door.come()
    door.end(after_s=1.0)
    for _ in range(6):
        door.come()
    with pytest.raises(DeadlineUnmeetable, match="about 6 s"):
        door.come(background=True, left_s=5.5)


def test_the_least_first_token_is_forgotten() -> None:
    admission = Admission(AdmissionSettings())
    assert admission.least_first_token_s == 0.0
    admission.first_token(0.1, 1000.0)
    admission.first_token(0.5, 1010.0)
    admission.first_token(0.5, 1070.0)
    assert admission.least_first_token_s == 0.1
    admission.first_token(0.5, 1140.0)
    assert admission.least_first_token_s == 0.5


class Crowd(RuleBasedStateMachine):
    """Requests of three tenants come, end and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = AdmissionSettings(
            max_running=3, max_waiting=8, background_max_running=2, tenant_max_running=2, background_share=0.25
        )
        self.admission = Admission(self.settings)
        self.now = 0.0
        self.running: list[Ticket] = []
        self.waiting: list[Ticket] = []

    @rule(tenant=st.sampled_from("abc"), background=st.booleans())
    def come(self, tenant: str, background: bool) -> None:
        try:
            ticket = self.admission.offer(tenant, background=background, now=self.now, left_s=1e9)
        except QueueFull as error:
            assert error.retry_after_s is not None
            return
        (self.running if ticket.running else self.waiting).append(ticket)

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0, 2), took_s=st.floats(0, 10))
    def end(self, at: int, took_s: float) -> None:
        self.now += took_s
        self._begun(self.admission.end(self.running.pop(at % len(self.running)), self.now))

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 7))
    def leave(self, at: int) -> None:
        self._begun(self.admission.end(self.waiting.pop(at % len(self.waiting)), self.now))

    @precondition(lambda self: self.waiting)
    @rule()
    def whoever_waits_runs_before_long(self) -> None:
        """However many keep coming: a turn for each tenant and share, times those of its own before it."""
        waits = self.waiting[0]
        for _ in range(200):
            if waits.running:
                return
            self.come("a", False), self.come("b", False), self.come("c", True)
            self.end(0, 1.0)
        raise AssertionError(f"{waits} starves")

    def _begun(self, begun: list[Ticket]) -> None:
        for ticket in begun:
            assert ticket.running
            self.waiting.remove(ticket)
            self.running.append(ticket)

    @invariant()
    def bounds_hold_and_nothing_leaks(self) -> None:
        admission, settings = self.admission, self.settings
        assert admission.running == len(self.running) <= settings.max_running
        assert admission.waiting == len(self.waiting) <= settings.max_waiting
        assert sum(ticket.background for ticket in self.running) <= 2
        for tenant in "abc":
            assert sum(ticket.tenant == tenant for ticket in self.running) <= 2

    @invariant()
    def nobody_waits_for_a_place_that_it_may_have(self) -> None:
        if len(self.running) == self.settings.max_running:
            return
        full = {tenant for tenant in "abc" if sum(ticket.tenant == tenant for ticket in self.running) == 2}
        background = sum(ticket.background for ticket in self.running)
        assert not [one for one in self.waiting if one.tenant not in full and (not one.background or background < 2)]

    def teardown(self) -> None:
        while self.waiting:
            self.leave(0)
        while self.running:
            self.end(0, 0.0)
        assert (self.admission.running, self.admission.waiting) == (0, 0)
        assert not self.admission._running_of
        assert not self.admission._waiting_of


TestCrowd = Crowd.TestCase
TestCrowd.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
