"""What the end of a call means."""

from __future__ import annotations

import asyncio

import pytest

from spillway.deadline import Deadline
from spillway.errors import Cancelled, DeadlineExceeded, Internal
from spillway.rpc.call import Call
from spillway.rpc.inbound import CLOCKS_DIFFER_S, told
from spillway.testing.clock import HandClock

EARLY = CLOCKS_DIFFER_S / 2


def left(seconds: float) -> Call:
    return Call("r", Deadline.after(seconds, HandClock()))


@pytest.mark.parametrize("error", [TimeoutError(), asyncio.CancelledError()], ids=repr)
@pytest.mark.parametrize("seconds", [0.0, EARLY])
def test_a_deadline_is_one_though_the_timer_struck_a_little_before_it(error: BaseException, seconds: float) -> None:
    assert isinstance(told(error, left(seconds), "/s/m", by_default=True), DeadlineExceeded)


def test_what_ends_a_call_long_before_its_deadline_is_no_deadline() -> None:
    assert isinstance(told(TimeoutError(), left(5), "/s/m", by_default=True), Internal)
    assert isinstance(told(asyncio.CancelledError(), left(5), "/s/m", by_default=True), Cancelled)
