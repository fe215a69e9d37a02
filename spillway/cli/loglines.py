"""Log lines of the services, made readable: one colour per service, JSON taken apart."""

from __future__ import annotations

import json
from typing import Any

from rich.text import Text

from spillway.cli.terminal import plain, style_of

WIDTH = 13
_LEVELS = {"warning": "yellow", "error": "bold red", "critical": "bold red"}
_HIDDEN = frozenset({"timestamp", "level", "event", "service", "module", "exception", "stack", "logger"})


def readable(service: str, raw: str) -> Text | None:
    """Return a line as people want it, or None for one that says nothing."""
    raw = plain(raw.rstrip())
    if not raw:
        return None
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{service:<{WIDTH}}", style_of(service))
    text.append("│ ", "dim")
    event = _event(raw)
    if event is None:
        text.append(raw, "dim")
        return text
    level = str(event.get("level", "info"))
    stamp = str(event.get("timestamp", ""))
    text.append(f"{stamp[11:23]} " if len(stamp) > 22 else "", "dim")
    text.append(plain(str(event.get("event", ""))), _LEVELS.get(level, ""))
    for key, value in event.items():
        if key not in _HIDDEN:
            text.append(f" {key}=", "dim")
            text.append(plain(str(value)), _LEVELS.get(level, "dim"))
    if "exception" in event:
        text.no_wrap = False
        text.append(plain(f"\n{event['exception']}"), "red")
    return text


def _event(raw: str) -> dict[str, Any] | None:
    if not raw.startswith("{"):
        return None
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None
