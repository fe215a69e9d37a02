"""What an engine measures of its lease. Names and meanings: docs/lease.md."""

from __future__ import annotations

from opentelemetry.metrics import Meter

from spillway.telemetry import names


class LeaseMeasures:
    """The instruments of one lease. `name` is the lease's."""

    def __init__(self, meter: Meter, name: str) -> None:
        self._attributes = {names.LEASE: name}
        self._wait = meter.create_histogram(names.LEASE_WAIT, "s", "from a call's arrival until it had the lease")
        self._lost = meter.create_counter(names.LEASE_LOST, "{hold}", "holds that ended before their call did")

    def acquired(self, waited_s: float) -> None:
        """A call has the lease."""
        self._wait.record(waited_s, self._attributes)

    def lost(self, why: str) -> None:
        """A hold ended before its call did; `ended`: an operator released it."""
        self._lost.add(1, {**self._attributes, names.ERROR_TYPE: why})

    def __repr__(self) -> str:
        return f"<LeaseMeasures {self._attributes[names.LEASE]}>"
