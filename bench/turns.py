"""Contenders that take turns, and the CPU of each process while one of them has its turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping

from bench.processes import Measured
from bench.row import Row


class Turns:
    """CPU in microseconds per unit of work, of every process in every turn."""

    def __init__(self, processes: Mapping[str, Measured]) -> None:
        self._processes = processes
        self._cpu_us: dict[str, dict[str, list[float]]] = {}

    def take(self, name: str, work: Callable[[], int]) -> None:
        """Have `name` do `work`, which returns how many units it did."""
        before = {process: measured.cpu_s() for process, measured in self._processes.items()}
        units = work()
        cpu_us = self._cpu_us.setdefault(name, {process: [] for process in self._processes})
        for process, measured in self._processes.items():
            cpu_us[process].append((measured.cpu_s() - before[process]) / units * 1e6)

    def cpu_us(self, name: str, process: str) -> float:
        """The median over the turns of `name` of what `process` used per unit."""
        return statistics.median(self._cpu_us[name][process])

    def rows(self, load: str, unit: str, through: Mapping[str, str], notes: Mapping[str, str]) -> Iterator[Row]:
        """A row for each of `through`, which names the process that it is about; the engine's use is told beside it."""
        for name, process in through.items():
            engine = "engine directly"
            beside = "" if process == engine else f"engine {self.cpu_us(name, engine):.1f} us, "
            yield Row(load, name, self.cpu_us(name, process), unit, beside + notes.get(name, ""))

    def __repr__(self) -> str:
        return f"<Turns {', '.join(self._cpu_us)}>"
