"""The metrics of all workers of a router on one port: Prometheus asks the supervisor, which asks each and adds up.

Every counter, every bucket of a histogram and the one gauge (rows that wait) mean something as sums, so each series is
told once, without the worker. What a worker counted stays in the sums when it has died: to Prometheus a counter that
falls has begun anew, and all of it would be counted twice.
"""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http.client import HTTPException
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from spillway.logs import get_logger
from spillway.supervisor import Supervisor, Told
from spillway.telemetry.identity import resource

from .settings import RouterSettings

log = get_logger(__name__)

ASK_S = 2.0
"""Longest wait for a worker; of one that is late its last word counts."""
GROWING = frozenset({"counter", "histogram", "summary"})
WHO = "target_info"
"""Tells of each worker which it is: of all together it is told once, without."""
_asking = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment has no such worker
Labels = tuple[tuple[str, str], ...]


class Sums(Collector):
    """Adds up. `told` gives what ready workers said of themselves, by process."""

    def __init__(self, told: Callable[[], Mapping[int, Told]]) -> None:
        self._told = told
        self._last: dict[int, str] = {}
        self._dead: list[Metric] = []
        self._adding = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """Ask every worker and yield the sums."""
        with self._adding:
            told = self._told()
            with ThreadPoolExecutor(max(1, len(told))) as asking:
                for pid, page in zip(told, asking.map(_page, told.values()), strict=True):
                    if page is not None:
                        self._last[pid] = page
            for pid in self._last.keys() - told.keys():
                ended = (each for each in _families(self._last.pop(pid)) if each.type in GROWING)
                self._dead = added(self._dead, ended)
            return added(self._dead, (family for page in self._last.values() for family in _families(page)))

    def __repr__(self) -> str:
        return f"<Sums of {len(self._last)} workers>"


def added(*told: Iterable[Metric]) -> list[Metric]:
    """Return each family once, and in it each series once with the sum of its values."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for family in (family for each in told for family in each):
        families.setdefault(family.name, family)
        series = values.setdefault(family.name, {})
        for sample in family.samples:
            # An empty label is none, to Prometheus too: a worker tells it once another series of its has a value there.
            key = sample.name, tuple(sorted(label for label in sample.labels.items() if label[1]))
            series[key] = series.get(key, 0.0) + sample.value
    found = []
    for name, family in families.items():
        whole = Metric(name, family.documentation, family.type)
        for (sample_name, labels), value in values[name].items():
            whole.add_sample(sample_name, dict(labels), value)
        found.append(whole)
    return found


@asynccontextmanager
async def scraped(settings: RouterSettings, supervisor: Supervisor[Any]) -> AsyncIterator[None]:
    """Serve the sums where the settings say, for the block. Raises OSError if the port is taken."""
    listen = settings.telemetry.metrics_listen
    if listen is None:
        yield
        return
    told = resource(settings.name, settings.telemetry).attributes
    registry = CollectorRegistry(target_info={name.replace(".", "_"): str(value) for name, value in told.items()})
    registry.register(Sums(lambda: supervisor.told))
    host, _, port = listen.rpartition(":")
    server, _ = start_http_server(int(port), host.strip("[]") or "0.0.0.0", registry)
    log.info("metrics.listening", address=f"{host}:{server.server_port}")
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _page(told: Told) -> str | None:
    try:
        with _asking.open(f"http://{told['metrics']}/metrics", timeout=ASK_S) as answer:
            page: bytes = answer.read()
            return page.decode()
    except (OSError, HTTPException):
        return None


def _families(page: str) -> Iterator[Metric]:
    return (family for family in text_string_to_metric_families(page) if family.name != WHO)
