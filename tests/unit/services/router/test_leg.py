"""A leg that another model goes on with: what of its answer is told, and from when."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from services.router.leg import Leg
from services.router.overlap import Astray, Overlap
from spillway import v1

SENT = "Your parcel left Berlin on Monday, passed Hamburg on Tuesday"


def said(text: str, tokens: int = 1) -> v1.GenerationEvent:
    return v1.GenerationEvent(delta=v1.Delta(text=text, tokens=tokens))


async def answer(*events: v1.GenerationEvent) -> AsyncGenerator[v1.GenerationEvent]:
    for event in events:
        yield event


STARTED = v1.GenerationEvent(started=v1.Started(model="m"))
CHANGED = v1.GenerationEvent(route_changed=v1.RouteChanged(to_target="twin"))


async def test_that_a_router_changed_its_route_is_not_told_before_it_is_certain_that_its_answer_goes_on() -> None:
    leg = Leg(v1.GenerationSpec(), True, Overlap(SENT, exact=False))
    told: list[v1.GenerationEvent] = []
    events = leg.new(answer(STARTED, said("Your parcel "), CHANGED, said("is lost, I fear, for good")))
    with pytest.raises(Astray):
        while True:
            told.append(await anext(events))
    assert told == []


async def test_what_was_held_back_is_told_in_its_order() -> None:
    leg = Leg(v1.GenerationSpec(), True, Overlap(SENT, exact=False))
    events = answer(STARTED, said(SENT[:20]), CHANGED, said(SENT[20:]), said(", and comes today"))
    told = [event.WhichOneof("event") async for event in leg.new(events)]
    assert told == ["started", "route_changed", "delta", "delta"]
