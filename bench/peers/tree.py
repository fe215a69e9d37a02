"""The CPU time and the memory of a process and all its descendants. Linux alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SCHEDULED = 2
"""CPUCLOCK_SCHED of Linux: the clock of a process's CPU time is made of this and its id (clock_getcpuclockid(3))."""


class Tree:
    """A process that was started here, and what it started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_s(self) -> float:
        """User and system time of all that live, in seconds, to the nanosecond; what has died is in none."""
        spent = 0
        for pid in self._living(self._pid):
            with suppress(OSError):
                spent += time.clock_gettime_ns(~pid << 3 | _SCHEDULED)
        return spent / 1e9

    def resident_bytes(self) -> int:
        """Memory that all of them hold, in bytes; what two share is counted twice."""
        pages = 0
        for pid in self._living(self._pid):
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _living(self, pid: int) -> Iterator[int]:
        yield pid
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                for child in children.read_text().split():
                    yield from self._living(int(child))

    def __repr__(self) -> str:
        return f"<Tree {self._pid}>"
