"""What the end of a request means to who asks over HTTP."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from services.router.http.connection import EXTENSION
from services.router.http.exchange import Endpoint, Exchange
from services.router.http.outlet import Turn
from spillway.rpc.inbound import CLOCKS_DIFFER_S
from spillway.telemetry.tracing import Tracing
from spillway.testing.clock import HandClock
from spillway.testing.server import LOOPBACK


@pytest.mark.parametrize("left_s", [0.0, CLOCKS_DIFFER_S / 2])
async def test_a_deadline_is_one_though_the_timer_struck_a_little_before_it(left_s: float) -> None:
    clock = HandClock()
    sent: list[Message] = []

    async def act(exchange: Exchange) -> None:
        clock.advance(exchange.call.deadline.left() - left_s)
        raise TimeoutError

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads")

    endpoint = Endpoint(
        "POST",
        "/v1/x",
        act,
        settings=LOOPBACK,
        max_body_bytes=1,
        key_scope="generate",
        keys=None,
        tracing=Tracing("x"),
        clock=clock,
        turn=Turn(),
    )
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [],
        "extensions": {EXTENSION: {"connection": lambda: SimpleNamespace(flow=None)}},
    }
    await endpoint(scope, receive, send)

    assert sent[0]["status"] == 504
