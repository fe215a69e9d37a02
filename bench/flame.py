"""`python -m bench.flame`: where the router's time goes, as flame graphs, under paced sessions and under calls.

Needs py-spy on PATH (`pipx install py-spy`). It writes FOLDER/flame-stream.svg and FOLDER/flame-calls.svg, and prints
the functions with the most time of their own. Seen is what holds the interpreter's lock: what runs inside gRPC's C core
counts for the Python function that called it, or is not there where it runs in a thread of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import load, session_load
from bench.mesh import PACED, PACED_INTERVAL_MS, between
from bench.session import CALLERS

SECONDS, RATE, SHOWN = 15, 200, 12
SETTLE_S = 3
"""Load that goes on when a recording has ended: py-spy takes a while to begin."""


async def streaming(address: str, seconds: int) -> None:
    """128 generations of 100 tokens a second, by session."""
    words = round(seconds * 1000 / PACED_INTERVAL_MS)
    await session_load.streams(address, PACED["count"], words, window_ms=0)


async def calling(address: str, seconds: int) -> None:
    """Unary calls, as many as there can be in so many seconds."""
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        await load.calls(address, CALLERS * 10, CALLERS)


LOADS = {"stream": (streaming, PACED_INTERVAL_MS), "calls": (calling, 0.0)}
TITLES = {
    "stream": f"The router under {PACED['count']} generations of 100 tokens/s in a session",
    "calls": f"The router under unary calls of {CALLERS} callers",
}
"""In place of py-spy's, which is its command line."""


def recorded(pid: int, path: Path, form: str, work: Callable[[], None]) -> None:
    """Have py-spy look at `pid` while `work` goes on. Raises CalledProcessError with its own words where it cannot."""
    told = ["--gil", "--pid", str(pid), "--duration", str(SECONDS), "--rate", str(RATE), "--format", form]
    command = ["py-spy", "record", *told, "--output", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as spying:
        work()
        said, _ = spying.communicate()
    if spying.returncode:
        raise subprocess.CalledProcessError(spying.returncode, command, said)


def graph(name: str, folder: Path) -> Iterator[str]:
    """Record the router under load `name`; yield what to print."""
    work, interval_ms = LOADS[name]
    svg = folder / f"flame-{name}.svg"
    with between(interval_ms, stepped=interval_ms > 0) as processes, tempfile.TemporaryDirectory() as scratch:
        router, raw = processes["router"], Path(scratch) / "raw"

        def load_it() -> None:
            asyncio.run(work(router.address, SECONDS + SETTLE_S))

        recorded(router.pid, svg, "flamegraph", load_it)
        recorded(router.pid, raw, "raw", load_it)
        svg.write_text(re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\1{TITLES[name]}", svg.read_text()))
        yield str(svg)
        yield from largest(raw.read_text())


def largest(stacks: str) -> Iterator[str]:
    """The functions with the most samples of their own, of stacks as py-spy's raw format has them."""
    own: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        own[stack.rpartition(";")[2].rpartition(":")[0]] += int(samples)
    for function, count in own.most_common(SHOWN):
        yield f"{count / own.total():6.1%} {function})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.flame", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    parser.add_argument("--only", choices=LOADS)
    arguments = parser.parse_args()
    if shutil.which("py-spy") is None:
        sys.exit("py-spy is not on PATH: pipx install py-spy")
    for name in LOADS:
        if arguments.only in (None, name):
            for line in graph(name, arguments.folder):
                print(line, flush=True)


if __name__ == "__main__":
    main()
