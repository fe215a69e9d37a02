"""`spillway ask` and `spillway explain`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import typer
from rich.console import Console
from rich.markup import escape

from spillway.cli import failure, reach
from spillway.cli.figures import Figures
from spillway.cli.plan_table import plan_table
from spillway.cli.reach import Reach
from spillway.cli.terminal import err, out, plain, quiet
from spillway.cli.trace_tree import ENGINE_SPAN, trace_tree
from spillway.client import AnswerStream, Client, Options, connect
from spillway.deadline import Clock
from spillway.errors import SpillwayError
from spillway.settings import TelemetrySettings
from spillway.telemetry import names
from spillway.telemetry.collector import SpanRecord, read_trace
from spillway.telemetry.tracing import Tracing, trace_id

EXPORT_S = 0.2
QUIET_S, LATE_S, TRACE_S = 1.5, 6.0, 15.0
"""Seconds: without news a trace is taken for whole; the same while vLLM's span is missing; the longest wait."""


def read_prompt(prompt: str) -> str:
    """Return the prompt, read from standard input for `-`."""
    return sys.stdin.read() if prompt == "-" else prompt


def options(*, json_schema: str | None = None, local_only: bool = False, **given: Any) -> Options:
    """Return the options that were given. Raises typer.BadParameter for a schema that cannot be read."""
    found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if local_only:
        found["local_only"] = True
    if json_schema is not None:
        found["json_schema"] = read_schema(json_schema)
    return cast("Options", found)


def read_schema(given: str) -> str:
    """Return the JSON text of a schema given as text or as a file."""
    if given.lstrip().startswith(("{", "true", "false")):
        return given
    try:
        return Path(given).read_text()
    except OSError as error:
        raise typer.BadParameter(f"--json-schema: cannot read {given}: {error.strerror}") from None


def run(prompt: str, wanted: Options, *, address: str | None, key: str | None, explain: bool, trace: bool) -> int:
    """Ask; return the exit code."""
    quiet()
    found = reach.find(address)
    try:
        return asyncio.run(_ask(prompt, wanted, found, key, explain=explain, trace=trace))
    except SpillwayError as error:
        return failure.tell(error, found, err())
    except KeyboardInterrupt:
        err().print("\ncancelled", style="dim")
        return failure.EXIT_INTERRUPTED


def run_explain(prompt: str, wanted: Options, *, address: str | None, key: str | None) -> int:
    """Explain; return the exit code."""
    quiet()
    found = reach.find(address)

    async def explain() -> int:
        async with connect(found.router, key=key) as client:
            return await _explain(client, prompt, wanted, out())

    try:
        return asyncio.run(explain())
    except SpillwayError as error:
        return failure.tell(error, found, err())
    except KeyboardInterrupt:
        return failure.EXIT_INTERRUPTED


async def _explain(client: Client, prompt: str, wanted: Options, console: Console) -> int:
    """Print the plan; return 0 if any target would answer."""
    plan = await client.explain(prompt, **wanted)
    console.print(f"[bold]{escape(plain(plan.reason))}[/]")
    console.print(plan_table(plan))
    return 0 if any(candidate.taken for candidate in plan.candidates) else failure.EXIT_FAILED


async def _ask(prompt: str, wanted: Options, found: Reach, key: str | None, *, explain: bool, trace: bool) -> int:
    tracing = tracing_to(found.collector)
    root = tracing.start(names.ASK) if trace and found.collector else None
    try:
        async with connect(found.router, key=key, tracing=tracing) as client:
            if explain:
                await _explain(client, prompt, wanted, err())
            if root is not None:
                wanted["parent"] = root
            figures = await stream_to_terminal(client, prompt, wanted)
    finally:
        if root is not None:
            root.end()
        tracing.close()
    err().print(figures.line(simulated=is_simulated(found, figures.target)))
    if trace:
        await _show_trace(found, trace_id(root) if root is not None else "")
    return 0


async def _show_trace(found: Reach, trace: str) -> None:
    if not trace:
        err().print("no trace: no mesh with a collector was started in this folder", style="dim")
        return
    with err().status("waiting for the last spans"):
        spans = await read_trace(found.collector, trace, until=Settled(), timeout_s=TRACE_S)
    err().print(trace_tree(spans))


class Settled:
    """Whether a trace has stopped growing: vLLM sends its spans up to five seconds late, the others within one."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._known = 0
        self._since = clock()

    def __call__(self, spans: Sequence[SpanRecord]) -> bool:
        if len(spans) != self._known:
            self._known, self._since = len(spans), self._clock()
        found = {span.name for span in spans}
        waits_for_engine = names.ENGINE_GENERATE in found and ENGINE_SPAN not in found
        return self._clock() - self._since > (LATE_S if waits_for_engine else QUIET_S)


async def stream_to_terminal(client: Client, prompt: str, wanted: Options) -> Figures:
    """Print an answer as it comes; return its figures. JSON that was judged is printed once it is whole."""
    began = time.perf_counter()
    first_ms: float | None = None
    pretty = "json_schema" in wanted or "json_object" in wanted
    async with client.stream(prompt, **wanted) as stream:
        async for text in stream:
            if first_ms is None:
                first_ms = (time.perf_counter() - began) * 1000
            if not pretty:
                sys.stdout.write(plain(text))
                sys.stdout.flush()
    total_ms = (time.perf_counter() - began) * 1000
    if pretty:
        _print_json(stream)
    else:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return Figures.of(stream.answer, first_ms=first_ms, total_ms=total_ms, held=pretty)


def _print_json(stream: AnswerStream) -> None:
    value = stream.answer.json()
    if sys.stdout.isatty():
        out().print_json(json.dumps(value))
    else:
        print(json.dumps(value, ensure_ascii=False))


def is_simulated(found: Reach, target: str) -> bool:
    """Whether `target` is the simulated provider of the mesh in this folder."""
    return bool(found.mesh and found.mesh.simulated_cloud and "/" in target)


def tracing_to(collector: str) -> Tracing:
    """Return the client's tracing, to the collector of the mesh where there is one."""
    settings = TelemetrySettings(otlp_endpoint=collector or None, export_interval_s=EXPORT_S, export_timeout_s=2.0)
    return Tracing("client", settings)
