"""A service that can be asked what it holds: `python -m bench.probed MODULE ARGUMENTS`, questions by line on stdin.

`objects`: the garbage is collected, and how many objects there are of each class of ours, and of running tasks, is told
as JSON. `pauses`: for each generation of the collector how often it ran since it was last asked, its longest run and
all of them in milliseconds of CPU, as JSON. `blocks`: how many blocks of memory Python has given out.
"""

from __future__ import annotations

import asyncio
import gc
import json
import runpy
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

OURS = ("spillway.", "services.", "grpc.")


@dataclass(slots=True)
class Pauses:
    """Collections of one generation, in milliseconds of CPU."""

    count: int = 0
    longest_ms: float = 0.0
    total_ms: float = 0.0


class Collections:
    """Times the collector, as gc.callbacks tells of it. While it runs nothing else does."""

    def __init__(self) -> None:
        self._began = 0.0
        self._pauses = [Pauses() for _ in range(3)]
        self.asked = False
        """What runs now was asked for, and does not count."""

    def __call__(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = time.thread_time()
            return
        if self.asked:
            return
        pauses, took_ms = self._pauses[info["generation"]], (time.thread_time() - self._began) * 1e3
        pauses.count += 1
        pauses.longest_ms = max(pauses.longest_ms, took_ms)
        pauses.total_ms += took_ms

    def told(self) -> list[dict[str, float]]:
        """Return what there was of each generation, and begin anew."""
        told, self._pauses = self._pauses, [Pauses() for _ in range(3)]
        return [asdict(pauses) for pauses in told]

    def __repr__(self) -> str:
        return f"<Collections {self._pauses}>"


def objects(collections: Collections) -> dict[str, int]:
    """Objects by class: those of our packages and of gRPC's, and tasks that have not ended."""
    collections.asked = True
    gc.collect()
    collections.asked = False
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        if issubclass(kind, asyncio.Task):
            found["running task"] += not each.done()
        elif kind.__module__.startswith(OURS):
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return found


def answering(collections: Collections) -> None:
    """Answer lines until there are no more."""
    questions = {
        "objects": lambda: objects(collections),
        "pauses": collections.told,
        "blocks": sys.getallocatedblocks,
    }
    for line in sys.stdin:
        print(json.dumps(questions[line.strip()]()), flush=True)


def main() -> None:
    collections = Collections()
    gc.callbacks.append(collections)
    threading.Thread(target=answering, args=(collections,), daemon=True).start()
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
