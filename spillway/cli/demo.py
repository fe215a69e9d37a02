"""`spillway demo`: prompts travel through the mesh, each shown with who answered it and why, then their trace."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from opentelemetry.trace import Span
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from spillway import v1
from spillway.cli import failure, state, up
from spillway.cli.ask import tracing_to
from spillway.cli.child import ChildRefused
from spillway.cli.figures import Figures, table
from spillway.cli.layout import Wanted, lay_out
from spillway.cli.mesh import running
from spillway.cli.plan_table import plan_table
from spillway.cli.progress import until_healthy
from spillway.cli.reach import Reach
from spillway.cli.terminal import out, plain, quiet
from spillway.cli.trace_tree import ENGINE_SPAN, trace_tree
from spillway.client import Answer, Client, connect
from spillway.errors import SpillwayError
from spillway.process import EXIT_SETTINGS, EXIT_START
from spillway.settings import SettingsError
from spillway.telemetry import names
from spillway.telemetry.collector import SpanRecord, read_trace
from spillway.telemetry.tracing import trace_id

SMALL_TALK = "Hi! What can you do?"
MESSAGE = "I was charged twice for my Lumora kettle. Order 48213. Thanks, Anna Reed"
EXTRACT = f"Extract the fields as JSON: name, product, order_id, issue.\n\n{MESSAGE}"
FIELDS = ("name", "product", "order_id", "issue")
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": ["string", "null"]} for name in FIELDS},
    "required": list(FIELDS),
    "additionalProperties": False,
}
COMPLEX = "Weigh three ways to reorganise a support team of forty people, and recommend one."
PRIVATE = f"Classify this message: {MESSAGE}"
SERVICES = frozenset({"client", "router", "local_engine", "cloud_proxy", "validator"})
TRACE_S = 20.0
"""Longest wait for the last span: vLLM sends its spans every few seconds."""


class NotShown(Exception):
    """Something the demo is to show did not happen."""


def run(wanted: Wanted) -> int:
    """Run the demo; return 0 if everything it shows has really happened."""
    quiet()
    console = out()
    began = time.monotonic()
    try:
        asyncio.run(_demo(wanted, console))
    except NotShown as error:
        console.print(f"\n[bold red]not shown:[/] {escape(str(error))}")
        return failure.EXIT_FAILED
    except ChildRefused as error:
        up.say_refused(error, wanted.folder / "logs", console)
        return EXIT_START
    except SettingsError as error:
        console.print(f"[bold red]wrong settings[/]\n{escape(str(error))}")
        return EXIT_SETTINGS
    except (OSError, RuntimeError) as error:
        console.print(f"[bold red]cannot start:[/] {escape(str(error))}")
        return EXIT_START
    except KeyboardInterrupt:
        console.print("\ninterrupted", style="dim")
        return failure.EXIT_INTERRUPTED
    console.print(f"\n[bold green]Everything shown has really happened[/], in {time.monotonic() - began:.0f} s.")
    return 0


async def _demo(wanted: Wanted, console: Console) -> None:
    async with _reached(wanted, console) as reach:
        try:
            await Show(reach, console).all()
        except SpillwayError as error:
            failure.tell(error, reach, console)
            raise NotShown("a request failed that was to be answered") from None


@asynccontextmanager
async def _reached(wanted: Wanted, console: Console) -> AsyncIterator[Reach]:
    """The mesh that runs in this folder, or one that is started for the block."""
    found = state.read(wanted.folder)
    if found is not None and found.alive:
        if not found.ready:
            raise NotShown("a mesh is just starting in this folder: wait for its word `ready`, then try again")
        console.print(f"Using the mesh that runs here: router {found.router}\n")
        yield Reach(found.router, found)
        return
    layout = lay_out(wanted, os.environ)
    up.announce(layout, console)
    async with running(layout, on_line=lambda name, line: None, tell=console.print) as mesh:
        await until_healthy(mesh, console)
        yield Reach(layout.addresses["router"], state.read(layout.folder))
        console.print("\nstopping the mesh", style="dim")


class Show:
    """The parts of the demo, in order. Each raises NotShown unless it really happened."""

    def __init__(self, reach: Reach, console: Console) -> None:
        self._reach = reach
        self._console = console
        self._rows: list[tuple[str, Figures]] = []
        self._pieces: list[int] = []
        """Of each answer that was streamed."""
        self._simulated = bool(reach.mesh and reach.mesh.simulated_cloud)

    async def all(self) -> None:
        """Show everything."""
        if not self._reach.collector:
            raise NotShown("this mesh has no collector of its own, so its traces cannot be shown")
        tracing = tracing_to(self._reach.collector)
        try:
            async with connect(self._reach.router, tracing=tracing) as client:
                await self._tokens(client)
                root = tracing.start(names.DEMO)
                try:
                    await self._json(client, root)
                    await self._escalation(client, root)
                finally:
                    root.end()
                await self._private(client)
                # A label may come in one piece, and on a busy machine so may a short answer.
                self._must(max(self._pieces) > 1, "every answer came in one piece, none as a stream")
                self._who()
                await self._trace(trace_id(root))
        finally:
            tracing.close()

    async def _tokens(self, client: Client) -> None:
        self._title("A prompt travels: client → router → local engine (vLLM), and tokens come back one by one")
        figures, answer = await self._stream(
            client, "small talk", SMALL_TALK, max_tokens=60, temperature=0.0, coalescing_ms=0
        )
        self._must(_is_local(answer), f"answered by {figures.target}, not by the local engine")
        self._must((figures.completion_tokens or 0) > 1, "no tokens were streamed")

    async def _json(self, client: Client, root: Span) -> None:
        self._title("A record is extracted as JSON: the decoder is held to the schema, the validator judges the answer")
        self._prompt(EXTRACT)
        began = time.perf_counter()
        answer = await client.generate(EXTRACT, json_schema=SCHEMA, max_tokens=120, temperature=0.0, parent=root)
        figures = Figures.of(answer, first_ms=None, total_ms=(time.perf_counter() - began) * 1000, held=True)
        self._console.print_json(json.dumps(answer.json()))
        self._told("JSON extraction", figures)
        if refused := sum(one.outcome == v1.ATTEMPT_OUTCOME_REFUSED_BY_VALIDATOR for one in answer.attempts):
            self._console.print(f"  The validator refused {refused} before it; the caller never saw them.", style="dim")
        self._must(answer.verdict is not None, "no verdict came with the answer")
        self._must(figures.verdict in ("accept", "repair"), f"the verdict is {figures.verdict}")
        self._must(set(answer.json()) == set(FIELDS), "the JSON does not have the fields asked for")

    async def _escalation(self, client: Client, root: Span) -> None:
        self._title("A complex request spills to the cloud, and the router says why")
        plan = await client.explain(COMPLEX, category="complex")
        self._console.print(Padding(plan_table(plan), (0, 0, 1, 2)))
        figures, answer = await self._stream(
            client, "complex request", COMPLEX, category="complex", max_tokens=200, parent=root
        )
        self._must(not _is_local(answer), f"answered by {figures.target}, not by the cloud")
        if self._simulated:
            self._console.print(f"  {up.SIMULATED} {up.SIMULATED_WHY}")

    async def _private(self, client: Client) -> None:
        self._title("The same kind of request, local only: it stays, whatever it costs in quality")
        plan = await client.explain(PRIVATE, category="complex", local_only=True)
        self._console.print(Padding(plan_table(plan), (0, 0, 1, 2)))
        _, answer = await self._stream(
            client, "local only", PRIVATE, category="complex", local_only=True, max_tokens=80, temperature=0.0
        )
        self._must(_is_local(answer), "a local-only request was not answered on the site")
        self._must(not any(attempt.left_site for attempt in answer.attempts), "a local-only prompt left the site")

    def _who(self) -> None:
        self._title("Who answered")
        simulated = {figures.target for _, figures in self._rows if "/" in figures.target} if self._simulated else ()
        self._console.print(Padding(table(self._rows, frozenset(simulated)), (0, 0, 0, 2)))

    async def _trace(self, trace: str) -> None:
        self._title("The JSON extraction and the complex request as one trace, from the client to vLLM")
        with self._console.status("waiting for the last spans"):
            spans = await read_trace(self._reach.collector, trace, until=_complete, timeout_s=TRACE_S)
        self._console.print(Padding(trace_tree(spans), (0, 0, 0, 2)))
        missing = sorted(SERVICES - {span.service for span in spans})
        self._must(not missing, f"the trace has no span of {', '.join(missing)}")
        self._must(any(span.name == ENGINE_SPAN for span in spans), "the trace has no span of vLLM")
        self._must(_complete(spans), "the trace is not whole: a parent is missing")

    async def _stream(self, client: Client, name: str, prompt: str, **options: object) -> tuple[Figures, Answer]:
        """Show an answer as it comes, its deltas in alternating shades."""
        self._prompt(prompt)
        began = time.perf_counter()
        first_ms: float | None = None
        deltas = 0
        self._console.print("  ", end="")
        async with client.stream(prompt, **options) as stream:  # type: ignore[arg-type]
            async for text in stream:
                if first_ms is None:
                    first_ms = (time.perf_counter() - began) * 1000
                deltas += 1
                shade = "bold cyan" if deltas % 2 else "cyan"
                self._console.print(Text(plain(text), style=shade), end="", soft_wrap=True)
        self._console.print()
        figures = Figures.of(stream.answer, first_ms=first_ms, total_ms=(time.perf_counter() - began) * 1000)
        self._told(name, figures, f"{deltas} deltas · ")
        self._pieces.append(deltas)
        return figures, stream.answer

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.print(Rule(f"[bold]{escape(text)}", align="left", style="dim"))

    def _prompt(self, prompt: str) -> None:
        self._console.print(Padding(Text(prompt, style="italic"), (0, 0, 0, 2)))

    def _told(self, name: str, figures: Figures, before: str = "") -> None:
        simulated = self._simulated and "/" in figures.target
        self._console.print(Padding(Text(before, style="dim") + figures.line(simulated), (0, 0, 0, 2)))
        self._rows.append((name, figures))

    def _must(self, happened: bool, otherwise: str) -> None:
        if not happened:
            raise NotShown(otherwise)


def _is_local(answer: Answer) -> bool:
    """Whether the attempt that answered stayed on the site."""
    answered = [one for one in answer.attempts if one.outcome == v1.ATTEMPT_OUTCOME_ANSWERED]
    return bool(answered) and not answered[-1].left_site


def _complete(spans: Sequence[SpanRecord]) -> bool:
    return {span.service for span in spans} >= SERVICES and any(span.name == ENGINE_SPAN for span in spans)
