"""The page of docs/ that a run writes: tables, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench.peers.figures import Figures, Outcome, Report
from bench.peers.load import (
    CALLS,
    FIRST,
    FLAT,
    FLAT_WORDS,
    LATE_S,
    PACED,
    PACED_PER_S,
    STALL_PER_S,
    STALL_S,
    STARTS_PER_S,
    Load,
)

Cell = Callable[[Outcome, Figures, Figures | None], str]

_HEAD = """# Spillway beside other gateways

This page is written by `make bench-peers`; `ARGUMENTS=--quick` makes it a short run, and `ARGUMENTS='--only Envoy'`
measures that system alone and writes no page. The other gateways are installed into a folder that git ignores,
without root and without an account; one that cannot be installed is left out, and the page says why.

![CPU per call and per token, and streams without a stall](peers.png)

"""

_HOW = f"""
## How it is measured

- One run, one machine, the systems taking turns under each load; medians of the rounds. CPU is user and system time
  of a system's whole process tree, without callers and upstream. Callers, upstream and system share the cores, so
  calls a second, times and streams say what all of them together do on this machine; **CPU per call and per token is
  what can be compared**, within a run.
- Callers are one process, the same for all systems of one wire. It parses as little as it can and keeps its
  connections.
- The upstream of gRPC is a fake engine that computes one step for all its answers at once and has their bytes ready;
  that of HTTP a fake provider of chat completions with the same answers at the same pace. Spillway's HTTP edge has
  the engine behind it.
- nginx and Envoy pass bytes on. vllm-router and smg choose a worker, break circuits and count. LiteLLM has its
  production settings, no database, and as many workers as it starts by itself. Spillway is one router process with
  everything on but cache and validation: policy, breakers, admission, metrics, one trace in a hundred exported,
  ledger.
- Whole answers have one token; over a session they are generations of one token. Streams flat out have {FLAT_WORDS}
  tokens with no pause. Paced streams have {PACED_PER_S} tokens a second; those that are {LATE_S:g} s late are cut, and
  the tokens that came count. What a stream costs at its beginning is in all figures. A token is a chunk of its own
  where it comes from, and a gateway may merge what it passes on.
- The overview's time to first token is the caller's, less that of the same callers without a gateway, at
  {STARTS_PER_S} starts a second.
- Streams without a stall: {STALL_PER_S} tokens a second each, no gap over {STALL_S * 1e3:.0f} ms, none failed or
  late, in one of two tries. "direct" is what callers and upstream carry by themselves here: no system can show more.
- Where the load average before the run was not small beside the cores, others were computing: times and streams then
  say little, and CPU is somewhat higher than on a quiet machine.
- Memory is what the process tree holds after a first few calls, and after all of them.
"""


def page(report: Report) -> str:
    """Return docs/peers.md."""
    return _HEAD + "; ".join(report.surroundings) + ".\n\n" + "\n".join(tables(report)) + "\n" + _HOW


def tables(report: Report) -> Iterator[str]:
    """Yield the lines of all tables, as Markdown."""
    yield from _overview(report)
    several: list[tuple[str, str, Cell]] = [
        ("CPU per whole answer, us (calls/s)", CALLS, _call),
        ("CPU per token, streams flat out, us (tokens/s)", FLAT, _token),
        (f"CPU per token, streams of {PACED_PER_S} tokens/s, us", PACED, _paced),
        (f"Streams of {PACED_PER_S} tokens/s: gap p99, largest, ms", PACED, _gap),
        (f"Streams of {PACED_PER_S} tokens/s: first token later than direct, p50, p99, ms", PACED, _added),
    ]
    for title, kind, cell in several:
        yield f"\n## {title}\n"
        yield f"| system | {' | '.join(_callers(each) for each in report.callers)} |"
        yield "|---|" + "---|" * len(report.callers)
        for outcome in _there(report):
            cells = [_cell(report, outcome, Load(kind, callers, 0.0), cell) for callers in report.callers]
            yield f"| {outcome.name} | {' | '.join(cells)} |"


def _overview(report: Report) -> Iterator[str]:
    streams = f"streams of {STALL_PER_S} tokens/s without a stall"
    yield f"| system | version | first token later, p50, p99, ms | {streams} | memory, MB |"
    yield "|---|---|---|---|---|"
    load = Load(FIRST, 1, 0.0)
    for outcome in report.outcomes:
        if outcome.missing:
            yield f"| {outcome.name} | left out: {outcome.missing} | | | |"
            continue
        added = _cell(report, outcome, load, _added)
        memory = (
            ""
            if outcome.memory_before is None or outcome.memory_after is None
            else (f"{outcome.memory_before / 1e6:.0f}, then {outcome.memory_after / 1e6:.0f}")
        )
        yield f"| {outcome.name} | {outcome.version} | {added} | {_streams(report, outcome)} | {memory} |"


def _callers(count: int) -> str:
    return f"{count} caller{'s' * (count > 1)}"


def _there(report: Report) -> Sequence[Outcome]:
    return [outcome for outcome in report.outcomes if not outcome.missing]


def _streams(report: Report, outcome: Outcome) -> str:
    if outcome.streams == report.stream_counts[-1]:
        return f"{outcome.streams} or more"
    return str(outcome.streams or f"fewer than {report.stream_counts[0]}")


def _cell(report: Report, outcome: Outcome, load: Load, cell: Cell) -> str:
    found = outcome.figures[load.name]
    direct = report.direct(outcome)
    beside = direct.figures[load.name] if direct is not None and direct is not outcome else None
    told = cell(outcome, found, beside) if found.tokens_per_s else "**nothing came in time**"
    return f"{told} **{found.failed} failed**: {_short(found.error)}" if found.failed else told


def _short(error: str) -> str:
    return error[:60].replace("|", "/").replace("\n", " ")


def _call(outcome: Outcome, found: Figures, direct: Figures | None) -> str:
    return f"{_us(found.cpu_us_call)} ({found.calls_per_s:,.0f})"


def _token(outcome: Outcome, found: Figures, direct: Figures | None) -> str:
    return f"{_us(found.cpu_us_token)} ({found.tokens_per_s:,.0f})"


def _paced(outcome: Outcome, found: Figures, direct: Figures | None) -> str:
    behind = "" if found.pace is None or found.pace > 0.99 else f" (only {found.pace:.0%} of the tokens in time)"
    return _us(found.cpu_us_token) + behind


def _gap(outcome: Outcome, found: Figures, direct: Figures | None) -> str:
    return f"{found.gap_p99_ms:.0f}, {found.gap_max_ms:.0f}"


def _added(outcome: Outcome, found: Figures, direct: Figures | None) -> str:
    if direct is None:
        return f"({found.first_p50_ms:.1f}, {found.first_p99_ms:.1f})"
    return f"{found.first_p50_ms - direct.first_p50_ms:.1f}, {found.first_p99_ms - direct.first_p99_ms:.1f}"


def _us(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
