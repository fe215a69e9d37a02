from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spillway import logs
from spillway.rpc import call as calls
from spillway.rpc.call import Call
from spillway.settings import LogSettings
from spillway.telemetry.tracing import Tracing, trace_id

SECRET = "a prompt that stays here"


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Configures logs of some format; returns what was printed since the last time."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def read(**settings: Any) -> str:
        if settings:
            logs.configure(LogSettings(**settings), "router")
        return capsys.readouterr().err

    yield read
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def crash() -> None:
    prompt = SECRET
    raise ZeroDivisionError(len(prompt))


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_logged_whole_without_local_variables(printed: Callable[..., str], form: str) -> None:
    printed(format=form)
    try:
        crash()
    except ZeroDivisionError as error:
        logs.get_logger("test").error("rpc.crashed", exc_info=error)
        logging.getLogger("some.library").exception("it broke")

    told = printed()
    assert told.count("ZeroDivisionError: 24") == 2
    assert told.count("in crash") == 2
    assert SECRET not in told


def test_a_line_is_bound_to_the_request_and_its_trace(printed: Callable[..., str], call: Callable[..., Call]) -> None:
    tracing = Tracing("router", exporter=InMemorySpanExporter())
    span = tracing.start("work")
    printed(format="json")
    token = calls._CURRENT.set(call(span=span))
    try:
        logs.get_logger("test").info("something.happened", size=3)
        logging.getLogger("some.library").warning("careful")
    finally:
        calls._CURRENT.reset(token)
        span.end()
        tracing.close()

    ours, theirs = (json.loads(line) for line in printed().splitlines())
    assert ours["event"] == "something.happened"
    assert theirs["event"] == "careful"
    for line in (ours, theirs):
        assert (line["service"], line["request_id"], line["trace_id"]) == ("router", "request-1", trace_id(span))


def test_lines_below_the_level_are_not_printed(printed: Callable[..., str]) -> None:
    printed(level="warning")
    logs.get_logger("test").info("quiet")
    logging.getLogger("some.library").info("quiet too")

    assert printed() == ""
