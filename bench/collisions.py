"""The failure this started from: a runtime that answers 404 to one of two concurrent processes, before and after.

A scheduler and manual runs, each a process, call the runtime directly; then the same programs call at the same moments,
each the router of its own node. Behind each router is a local engine before the one runtime, and the cloud; nothing but
the lease on the store keeps the two nodes apart. `SPILLWAY_SECONDS` is how long each way is measured.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench.processes import Measured, free_address, started
from bench.program import Asked
from bench.row import Calls

SECONDS = float(os.environ.get("SPILLWAY_SECONDS", "18"))
SEED = 11
CLOUD = "simulated/simulated"


PROGRAMS = {"scheduler": "scheduler", "manual": "manual"}
"""Node -> what runs there."""
MODEL, AT_HOME = "simulated", "at-home"
"""What the programs call the model: the runtime's own name for it, and one that the policy keeps on the site."""


class Rig:
    """The programs, and what they call."""

    def __init__(self, surroundings: Measured, programs: Mapping[str, Measured], proxy: str) -> None:
        self._surroundings = surroundings
        self._programs = programs
        self._proxy = proxy
        self.told: dict[str, str] = json.loads(surroundings.address)

    def measured(self, urls: Mapping[str, str], model: str, seconds: float) -> tuple[list[Asked], int]:
        """Have each program call its URL; return their calls, and how many met another inside the runtime."""
        self._surroundings.ask("from now on")
        with ThreadPoolExecutor() as pool:
            lines = pool.map(lambda name: self._programs[name].ask(f"{urls[name]} {model} {SEED} {seconds}"), urls)
            calls = [Asked(**call) for line in lines for call in json.loads(line)]
        return calls, int(self._surroundings.ask("collisions"))

    @property
    def runtime(self) -> dict[str, str]:
        """Before: the URL that each program calls."""
        return dict.fromkeys(self._programs, f"{self.told['runtime']}/v1")

    @contextmanager
    def nodes(self, wait_s: float) -> Iterator[dict[str, str]]:
        """After: the same, each of its own node's router. A call waits for the runtime so long at most."""
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool, ExitStack() as stack:
            urls: dict[str, str] = {}
            commands = []
            for node in self._programs:
                http, router, engine = free_address(), free_address(), free_address()
                config = Path(folder) / f"{node}.yaml"
                config.write_text(yaml.safe_dump(self._node(wait_s, http=http, router=router, engine=engine)))
                commands += [("services.local_engine", config, engine), ("services.router", config, router)]
                urls[node] = f"http://{http}/v1"
            for _ in pool.map(lambda told: stack.enter_context(_service(*told)), commands):
                pass
            yield urls

    def _node(self, wait_s: float, *, http: str, router: str, engine: str) -> dict[str, Any]:
        local = {"name": "local", "kind": "local", "address": engine, "capabilities": ["text_input"]}
        cloud = {"name": CLOUD, "kind": "cloud", "address": self._proxy, "model": CLOUD, "region": "eu"}
        targets = [{**target, "context_window": 4096} for target in (local, {**cloud, "capabilities": ["text_input"]})]
        return {
            "router": {
                "server": {"listen": router, "announce_s": 0},
                "http": {"listen": http},
                "targets": targets,
                "aliases": {MODEL: {"use": "spills"}, AT_HOME: {"use": "stays"}},
                "policies": {"spills": {}, "stays": {"residency": "local_only"}},
            },
            "local_engine": {
                "server": {"listen": engine, "announce_s": 0},
                "runtime": {"kind": "openai", "address": self.told["runtime"], "context_window": 4096},
                "store": {"url": self.told["store"], "timeout_s": 2},
                "lease": {"name": "runtime", "wait_s": wait_s},
            },
        }


@contextmanager
def rig(habits: Mapping[str, str] = PROGRAMS) -> Iterator[Rig]:
    """The programs, by node what their habit is, the runtime, the cloud and its proxy, for the block."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        surroundings = stack.enter_context(started("bench.surroundings"))
        told = json.loads(surroundings.address)
        provider = {
            "name": "simulated",
            "base_url": told["cloud"],
            "region": "eu",
            "simulated": True,
            "models": [{"name": "simulated", "context_window": 4096}],
        }
        proxy, config = free_address(), Path(folder) / "proxy.yaml"
        section = {
            "server": {"listen": proxy},
            "store": {"url": told["store"], "timeout_s": 2},
            "providers": [provider],
        }
        config.write_text(yaml.safe_dump({"cloud_proxy": section}))
        stack.enter_context(_service("services.cloud_proxy", config, proxy))
        programs = {node: stack.enter_context(started("bench.program", habit)) for node, habit in habits.items()}
        yield Rig(surroundings, programs, proxy)


@contextmanager
def _service(module: str, config: Path, address: str) -> Iterator[Measured]:
    with started(module, "--config", str(config), address=address) as measured:
        yield measured


def run() -> Iterator[Calls]:
    """Before, and after under each policy."""
    with rig() as found:
        yield _row("called directly", *found.measured(found.runtime, MODEL, SECONDS))
        for wait_s in (0.5, 30.0):
            with found.nodes(wait_s) as urls:
                yield _row(f"{wait_s:g} s, then the cloud", *found.measured(urls, MODEL, SECONDS))
                if wait_s == 30.0:
                    yield _row("never the cloud", *found.measured(urls, AT_HOME, SECONDS))


def _row(way: str, calls: list[Asked], collisions: int) -> Calls:
    answered = [call for call in calls if not call.failed]
    return Calls(
        "a scheduler and manual runs",
        way,
        calls=len(calls),
        failed=len(calls) - len(answered),
        cloud=sum(call.target == CLOUD for call in answered),
        collisions=collisions,
        waited_s=tuple(call.waited_s for call in answered),
    )
