"""The comparison with other gateways: its callers and upstreams over real sockets, and what becomes of the samples."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from bench.peers.client import CALLERS, asked, measured
from bench.peers.engine import Engine
from bench.peers.environment import Missing, Place
from bench.peers.figures import Figures, Outcome, Report, Sample, stalled
from bench.peers.load import CALLS, FIRST, FLAT, PACED, STALLS, Found, Load
from bench.peers.pace import Answer, Paces
from bench.peers.page import page
from bench.peers.provider import MODEL, Connection
from bench.peers.system import Command, System, Upstreams, running
from bench.peers.tree import Tree
from bench.processes import started

CALL = Load(CALLS, 2, 0.05)
PACE = Load(PACED, 3, 0.05)


@asynccontextmanager
async def engine() -> AsyncIterator[str]:
    server = grpc.aio.server()
    for handler in Engine().handlers():
        server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def provider() -> AsyncIterator[str]:
    paces = Paces()
    async with await asyncio.get_running_loop().create_server(lambda: Connection(paces), "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("wire", CALLERS)
@pytest.mark.parametrize("load", [CALL, PACE, Load(FLAT, 2, 0.05), Load(FIRST, 1, 0.1)], ids=str)
async def test_every_token_of_every_answer_is_counted_on_every_wire(wire: str, load: Load) -> None:
    async with (provider if wire == "http" else engine)() as address:
        caller = CALLERS[wire](address)
        found = await measured(asked(caller, MODEL if wire == "http" else "", load), load)
        await caller.close()
    whole = found.calls * load.answer.words
    assert (found.failed, found.error) == (0, "")
    assert found.tokens == whole > 0
    assert found.tokens == load.wanted_tokens or not load.paced


@pytest.mark.parametrize("wire", CALLERS)
async def test_who_cannot_be_reached_is_a_failed_call(wire: str) -> None:
    async with engine() as address:
        pass
    caller = CALLERS[wire](address)
    found = await measured(asked(caller, MODEL, PACE), PACE)
    await caller.close()
    assert (found.calls, found.failed) == (0, PACE.callers)
    assert found.error


async def test_a_refusal_over_http_is_a_failed_call() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        caller = CALLERS["http"](f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        found = await measured(asked(caller, MODEL, PACE), PACE)
        await caller.close()
    assert found.failed == PACE.callers
    assert "503 Busy" in found.error


def test_the_prompt_says_what_is_asked_for_in_any_wire_format() -> None:
    answer = Answer(12, 20)
    assert Answer.asked(json.dumps({"content": answer.prompt}).encode()) == answer
    with pytest.raises(ValueError, match="how many words"):
        Answer.asked(b"{}")


def test_a_figure_is_the_median_of_its_rounds_and_unknown_is_not_zero() -> None:
    found = Found(calls=10, tokens=100, chunks=50, wall_s=2.0, gap_max_s=0.01)
    rounds = [Sample(found, 0.001), Sample(found, 0.002), Sample(replace(found, gap_max_s=0.5), 0.009)]
    figures = Figures.of(rounds, CALL)
    assert (figures.cpu_us_call, figures.cpu_us_token, figures.cpu_us_chunk) == pytest.approx((200, 20, 40))
    assert (figures.calls_per_s, figures.gap_max_ms, figures.pace) == (5, 500, None)
    assert Figures.of([Sample(found, None)], CALL).cpu_us_call is None
    assert Figures.of([Sample(Found(failed=3, wall_s=1.0), 0.1)], CALL).cpu_us_call is None


def test_a_stream_that_pauses_fails_or_is_late_has_stalled() -> None:
    load = Load(STALLS, 4, 1.0)
    well = Found(calls=4, tokens=load.wanted_tokens, gap_max_s=0.25)
    assert not stalled(well, load)
    for worse in ({"gap_max_s": 0.26}, {"failed": 1}, {"cut": 1}, {"tokens": load.wanted_tokens - 1}):
        assert stalled(replace(well, **worse), load)


def test_what_failed_or_is_missing_stands_on_the_page_and_a_report_is_read_as_it_was_written() -> None:
    loads = [Load(kind, 1, 1.0) for kind in (CALLS, FLAT, PACED, FIRST)]

    def outcome(name: str, version: str, found: Found) -> Outcome:
        figures = {load.name: Figures.of([Sample(found, 0.1)], load) for load in loads}
        return Outcome(name, "grpc", version, streams=64, memory_before=10**6, memory_after=2 * 10**6, figures=figures)

    found = Found(calls=1, tokens=1, chunks=1, wall_s=1.0, first_p50_s=0.002)
    report = Report(
        ["a machine"],
        [1],
        [64, 128],
        [
            outcome("direct gRPC", "", found),
            outcome("one", "1.0", replace(found, first_p50_s=0.005, failed=7, error="busy | full")),
            Outcome("another", "grpc", "none", "no such package"),
        ],
    )
    told = page(report)
    assert "**7 failed**: busy / full" in told
    assert "| another | left out: no such package |" in told
    assert "| one | 1.0 | 3.0, 0.0 " in told
    assert Report.read(json.loads(json.dumps(report.told()))) == report


def test_the_cpu_time_of_children_is_that_of_the_tree() -> None:
    child = "import sys, time; sum(range(10**6)); print(time.process_time(), flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        spent_s = float(process.stdout.readline())
        tree = Tree(process.pid)
        assert tree.cpu_s() > spent_s
        assert tree.resident_bytes() > 10 * 2**20
        process.communicate()


def test_a_system_that_does_not_start_is_left_out_with_its_last_word(tmp_path: Path) -> None:
    def command(place: Place, upstreams: Upstreams, folder: Path) -> Command:
        return Command([place.program("python"), "-c", "raise SystemExit('no licence')"], "127.0.0.1:1")

    here = Place(Path(sys.executable).parent, "1")
    system = System("one", "grpc", "", lambda: here, command)
    with (
        started("bench.peers.client") as client,
        pytest.raises(Missing, match="did not start: no licence"),
        running(system, Upstreams("127.0.0.1:1", "127.0.0.1:1"), client, tmp_path),
    ):
        pass
