"""How things look in a terminal: one palette, one way to write times, tokens and money."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import structlog
from rich.console import Console
from rich.text import Text

FILE_WIDTH = 160
"""Columns of what goes to a file or a pipe."""

STYLES: Mapping[str, str] = {
    "client": "bold white",
    "router": "cyan",
    "local_engine": "green",
    "vllm": "bright_green",
    "cloud_proxy": "magenta",
    "validator": "yellow",
    "openai_simulator": "blue",
    "spillway": "bold",
}
"""Service -> colour, the same in logs, tables and traces."""


def out() -> Console:
    """What was asked for: answers and tables."""
    return _console(stderr=False)


def err() -> Console:
    """What is said about it: progress, logs, who answered, errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    return console


def quiet() -> None:
    """Keep this process's own logs out of the terminal: what a person should know is printed."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def style_of(service: str) -> str:
    """Return the colour of `service`, or of one of several; vLLM's spans may name it in several ways."""
    return STYLES.get(service.partition(" ")[0]) or (STYLES["vllm"] if "vllm" in service.lower() else "white")


def duration(ms: float | None) -> str:
    """Write milliseconds: 0.42 ms, 85 ms, 1.24 s; a dash for unknown."""
    if ms is None:
        return "-"
    if ms < 10:
        return f"{ms:.2g} ms" if ms < 1 else f"{ms:.1f} ms"
    if ms < 1000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.2f} s" if ms < 60_000 else f"{ms / 1000:.0f} s"


def money(nano_usd: int | None) -> str:
    """Write 1e-9 USD: $0, $0.000023; a dash for unknown."""
    if nano_usd is None:
        return "-"
    if nano_usd == 0:
        return "$0"
    usd = nano_usd / 1e9
    return f"${usd:.4f}" if usd >= 0.001 else f"${usd:.9f}".rstrip("0").rstrip(".")


def rate(tokens: int | None, after_first_ms: float | None) -> str:
    """Write tokens per second after the first token; a dash where that says nothing."""
    if tokens is None or after_first_ms is None or tokens < 2 or after_first_ms < 1:
        return "-"
    return f"{(tokens - 1) / after_first_ms * 1000:.0f}"


def word(enum: Any, number: int) -> str:
    """Write a member of a generated enum as callers do: complex, local_only, accept."""
    members = {int(value): str(name) for name, value in enum.items()}
    prefix = members[0].removesuffix("UNSPECIFIED")
    return members.get(number, str(number)).removeprefix(prefix).lower()


def plain(text: str) -> str:
    """Return `text` without control characters, so that nothing another program wrote can drive the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def line(*parts: tuple[str, str] | str) -> Text:
    """Put styled parts together."""
    return Text.assemble(*parts)
