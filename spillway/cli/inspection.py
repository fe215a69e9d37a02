"""`spillway inspect`: where a text holds what ought not to leave the site."""

from __future__ import annotations

import asyncio
import sys
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
        spans = asyncio.run(_ask(text, validator, key))
    except SpillwayError as error:
        return failure.tell(error, Reach(validator), err())
    except KeyboardInterrupt:
        return failure.EXIT_INTERRUPTED
    name = "-" if file == "-" else file
    for span in spans:
        line, column = place(text, span.start)
        told = f"{name}:{line}:{column}: {span.kind} ({span.rule}), {span.end - span.start} characters"
        out().print(plain(told), markup=False, soft_wrap=True)
    return failure.EXIT_FAILED if spans else 0


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


async def _ask(text: str, validator: str, key: str | None) -> list[v1.SensitiveSpan]:
    told: v1.InspectInputResponse = await ask("InspectInput", v1.InspectInputRequest(texts=[text]), validator, key)
    return list(told.spans)
