"""One run: every system under every load, in turns."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from bench.peers.environment import Missing
from bench.peers.figures import Figures, Outcome, Report, Sample, stalled
from bench.peers.load import CALLS, FIRST, FLAT, PACED, STALLS, Found, Load
from bench.peers.system import Running, System, Upstreams, running
from bench.processes import Measured, started

_UPSTREAMS: Final = ("engine", "provider")
SETTLE_S: Final = 20.0
IDLE_S: Final = 0.5
IDLE_SHARE: Final = 0.1
"""A system that uses less of a core for so long has nothing to do."""
_TRIES: Final = 2
"""Of so many streams, before they are said to stall: others use the machine too."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. Times are in seconds."""

    rounds: int
    callers: tuple[int, ...]
    seconds: float
    paced_seconds: float
    stream_counts: tuple[int, ...]
    stall_seconds: float

    def loads(self) -> Iterator[Load]:
        """Those of every round."""
        for kind, seconds in ((CALLS, self.seconds), (FLAT, self.seconds), (PACED, self.paced_seconds)):
            for callers in self.callers:
                yield Load(kind, callers, seconds)
        yield Load(FIRST, 1, 2 * self.seconds)


FULL: Final = Plan(3, (1, 16, 64, 256), 3.0, 4.0, (64, 128, 256, 512, 1024), 6.0)
QUICK: Final = Plan(1, (1, 64), 1.5, 2.5, (64, 256, 512), 3.0)
WARM: Final = (Load(CALLS, 16, 0.5), Load(FLAT, 16, 0.5))


def run(systems: Sequence[System], plan: Plan) -> Report:
    """Measure `systems`, telling how far it is."""
    load_before = os.getloadavg()[0]
    missing: dict[str, str] = {}
    for system in systems:  # installing is no neighbour of measuring
        with _or_left_out(system, missing):
            if not system.direct:
                system.place()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        upstreams = Upstreams(*(stack.enter_context(started(f"bench.peers.{name}")).address for name in _UPSTREAMS))
        client = stack.enter_context(started("bench.peers.client"))
        found: list[Running] = []
        for system in systems:
            if system.name in missing:
                continue
            print(f"starting {system.name}", flush=True)
            with _or_left_out(system, missing):
                found.append(stack.enter_context(running(system, upstreams, client, Path(folder))))
        for each in found:
            for load in WARM:
                each.ask(client, load)
        before = {each.system.name: _memory(each) for each in found}
        samples = _rounds(found, client, plan)
        streams = _streams(found, client, plan)
        outcomes = {
            each.system.name: Outcome(
                each.system.name,
                each.system.wire,
                each.version,
                memory_before=before[each.system.name],
                memory_after=_memory(each),
                streams=streams[each.system.name],
                figures={load.name: Figures.of(samples[each.system.name, load], load) for load in plan.loads()},
            )
            for each in found
        }
    gone = {
        system.name: Outcome(system.name, system.wire, "none", missing[system.name])
        for system in systems
        if system.name in missing
    }
    return Report(
        [
            *surroundings(),
            f"load average {load_before:.1f} before and {os.getloadavg()[0]:.1f} at the end",
            f"{plan.rounds} round{'s' * (plan.rounds > 1)}",
        ],
        list(plan.callers),
        list(plan.stream_counts),
        [{**outcomes, **gone}[system.name] for system in systems],
    )


@contextmanager
def _or_left_out(system: System, missing: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except Missing as why:
        print(f"without {system.name}: {why}", flush=True)
        missing[system.name] = str(why)


def _rounds(found: Sequence[Running], client: Measured, plan: Plan) -> dict[tuple[str, Load], list[Sample]]:
    samples: dict[tuple[str, Load], list[Sample]] = {}
    for number in range(plan.rounds):
        for load in plan.loads():
            print(f"round {number + 1} of {plan.rounds}: {load}", flush=True)
            for each in found:
                samples.setdefault((each.system.name, load), []).append(_sample(each, client, load))
    return samples


def _sample(each: Running, client: Measured, load: Load) -> Sample:
    before = each.tree.cpu_s() if each.tree else None
    found = each.ask(client, load)
    sample = Sample(found, each.tree.cpu_s() - before if each.tree and before is not None else None)
    _settle(each, found)
    return sample


def _settle(each: Running, found: Found) -> None:
    """Wait for what still works on answers that nobody waits for any more: it is not the next one's load."""
    until = time.monotonic() + SETTLE_S
    while each.tree and (found.cut or found.failed) and time.monotonic() < until:
        before = each.tree.cpu_s()
        time.sleep(IDLE_S)
        if each.tree.cpu_s() - before < IDLE_SHARE * IDLE_S:
            return


def _streams(found: Sequence[Running], client: Measured, plan: Plan) -> dict[str, int]:
    """How many streams each carries without a stall, of the counts that are tried; 0 for none of them."""
    most = {each.system.name: 0 for each in found}
    still = list(found)
    for count in plan.stream_counts:
        load = Load(STALLS, count, plan.stall_seconds)
        print(f"stalls: {count} streams through {', '.join(each.system.name for each in still) or 'none'}", flush=True)
        for each in list(still):
            if all(stalled(_sample(each, client, load).found, load) for _ in range(_TRIES)):
                still.remove(each)
            else:
                most[each.system.name] = count
    return most


def _memory(each: Running) -> int | None:
    return each.tree.resident_bytes() if each.tree else None


def surroundings() -> list[str]:
    """Machine, versions and date, a line each."""
    cpu = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("grpcio", "protobuf"))
    return [
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{os.cpu_count()} cores ({', '.join(sorted(cpu)) or platform.machine()}), {pages / 2**30:.0f} GiB",
        f"Python {platform.python_version()}, {versions}",
    ]
