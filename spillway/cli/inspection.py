"""`spillway inspect`: where a text holds what ought not to leave the site, or speaks as if it could command a model."""

from __future__ import annotations

import asyncio
import sys
from operator import attrgetter
from pathlib import Path

import typer

from spillway import v1
from spillway.cli import failure, reach
from spillway.cli.reach import Reach
from spillway.cli.terminal import err, out, plain, quiet
from spillway.cli.validator import ask
from spillway.errors import SpillwayError


def run(file: str, *, address: str | None, key: str | None) -> int:
    """Print place and kind of what is found, never the text itself; return 0 if nothing is, 1 if something is."""
    quiet()
    text = read(file)
    validator = address or reach.find(None).addresses()["validator"]
    try:
        request = v1.InspectInputRequest(texts=[text])
        told: v1.InspectInputResponse = asyncio.run(ask("InspectInput", request, validator, key))
    except SpillwayError as error:
        return failure.tell(error, Reach(validator), err())
    except KeyboardInterrupt:
        return failure.EXIT_INTERRUPTED
    name = "-" if file == "-" else file
    found = sorted((*told.spans, *told.marks), key=attrgetter("start"))
    for span in found:
        line, column = place(text, span.start)
        what = span.kind if span.rule == span.kind else f"{span.kind} ({span.rule})"
        said = f"{name}:{line}:{column}: {what}, {span.end - span.start} characters"
        out().print(plain(said), markup=False, soft_wrap=True)
    return failure.EXIT_FAILED if found else 0


def read(file: str) -> str:
    """Return the text of `file`, or of standard input for `-`. Raises typer.BadParameter if it cannot be read."""
    try:
        return (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file} is not UTF-8: byte {error.start}") from None


def place(text: str, start: int) -> tuple[int, int]:
    """Return line and column, both from 1, of the character at `start`."""
    return text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
