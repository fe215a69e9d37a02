"""Log lines of the services, made readable: one colour per service, JSON taken apart."""

from __future__ import annotations

import json
from typing import Any

from rich.text import Text

from spillway.cli.terminal import plain, style_of

WIDTH = 17
EXCEPTION_LINES = 6
"""Last lines of a traceback that are shown; the log file has all."""
_LEVELS = {"warning": "yellow", "error": "bold red", "critical": "bold red"}
_HIDDEN = frozenset({"timestamp", "level", "event", "service", "module", "exception", "stack", "logger"})


def readable(service: str, raw: str) -> Text | None:
    """Return an event as people want it, or None for a line of another format: it is for the log file alone."""
    event = _event(raw)
    if event is None:
        return None
    text = Text.assemble((f"{service:<{WIDTH}}", style_of(service)), ("│ ", "dim"))
    level = str(event.get("level", "info"))
    stamp = str(event.get("timestamp", ""))
    text.append(f"{stamp[11:23]} " if len(stamp) > 22 else "", "dim")
    text.append(plain(str(event.get("event", ""))), _LEVELS.get(level, ""))
    for key, value in event.items():
        if key not in _HIDDEN and value not in (None, ""):
            text.append(f" {key}=", "dim")
            text.append(plain(str(value)), _LEVELS.get(level, "dim"))
    if "exception" in event:
        last = plain(str(event["exception"])).splitlines()[-EXCEPTION_LINES:]
        text.append("".join(f"\n{line}" for line in last), "red")
    return text


def _event(raw: str) -> dict[str, Any] | None:
    if not raw.startswith("{"):
        return None
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None
