"""Errors, told so that a person knows what to change."""

from __future__ import annotations

from rich.console import Console

from spillway.cli.reach import Reach
from spillway.cli.terminal import plain
from spillway.errors import (
    AllTargetsFailed,
    Cancelled,
    DeadlineExceeded,
    LimitReached,
    NotFound,
    RequestInvalid,
    SpillwayError,
    TargetUnavailable,
)

EXIT_FAILED, EXIT_INVALID, EXIT_UNAVAILABLE, EXIT_LIMIT, EXIT_DEADLINE, EXIT_INTERRUPTED = 1, 2, 4, 5, 6, 130
EXITS: tuple[tuple[type[SpillwayError], int], ...] = (
    (RequestInvalid, EXIT_INVALID),
    (NotFound, EXIT_INVALID),
    (TargetUnavailable, EXIT_UNAVAILABLE),
    (LimitReached, EXIT_LIMIT),
    (DeadlineExceeded, EXIT_DEADLINE),
    (Cancelled, EXIT_INTERRUPTED),
)


def tell(error: SpillwayError, reach: Reach, console: Console) -> int:
    """Print what went wrong and what to do; return the exit code."""
    if "failed to connect to all addresses" in error.message.lower():
        console.print(f"[bold red]nobody answers at {reach.router}[/]: start the mesh with [bold]spillway up[/]")
        return EXIT_UNAVAILABLE
    said = error.code.name if error.code.name == error.reason else f"{error.code.name} {error.reason}"
    console.print(f"[bold red]{said}[/]", end=" ")
    named = error.fields and all(violation.description in error.message for violation in error.fields)
    console.print("" if named else plain(error.message), markup=False)
    for violation in error.fields:
        console.print(f"  [bold]{plain(violation.field)}[/]", end=" ")
        console.print(plain(violation.description), markup=False)
    for key, value in error.metadata.items():
        console.print(f"  {plain(key)}: {plain(value)}", style="dim", markup=False)
    if error.retry_after_s is not None:
        console.print(f"  the same request may succeed in {error.retry_after_s:g} s", style="dim")
    elif reach.mesh is not None and not reach.mesh.ready:
        console.print("  the mesh is still starting", style="dim")
    elif isinstance(error, AllTargetsFailed):
        console.print("  `spillway status` shows what is down", style="dim")
    return next((code for kind, code in EXITS if isinstance(error, kind)), EXIT_FAILED)
