"""Logs: structlog, one line per event, bound to the request and its trace. Event names are an API."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from spillway.rpc.call import peek_call
from spillway.settings import LogSettings
from spillway.telemetry.tracing import trace_id


def configure(settings: LogSettings, service: str, **more: int) -> None:
    """Send this process's logs, its libraries' warnings included, to stderr. `more` is told with every line."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _bind({"service": service, **more}),
        _add_call,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=0,
            exception_formatter=structlog.dev.plain_traceback,  # the default prints local variables: prompts, keys
        )
    )
    rendered: list[Processor] = [
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        renderer,
    ]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # Tracing tells of a lost collector, once


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of one module."""
    logger: FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


def _bind(told: Mapping[str, str | int]) -> Processor:
    def bind(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        for name, value in told.items():
            event.setdefault(name, value)
        return event

    return bind


def _add_call(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    call = peek_call()
    if call is not None:
        event.setdefault("request_id", call.request_id)
        if found := trace_id(call.span):
            event.setdefault("trace_id", found)
    return event
