"""The retry budget: how many retries on the same target and hedges a router may add to its requests. Pure.

All routers together may add `share` of their requests, and `floor` in every window besides. Nobody need be asked for
that: each keeps to the share of its own requests, so the sum keeps to the share of all, and only the floor is divided,
by the routers last seen. It is exact at the moment of each retry, for the window that ends there; a retry may outlive
the requests that paid for it, so any window sees at most the share of twice its length. Where more routers run than
were seen, the floor is exceeded by as much, the share never. A failover to another target is not a retry: a dead engine
would spend it all.
"""

from __future__ import annotations

from collections.abc import Callable

from .breaker_settings import RetryBudgetSettings
from .rolling_window import RollingWindow


class RetryBudget:
    """Decides from memory. `routers` tells how many routers share the budget."""

    def __init__(self, settings: RetryBudgetSettings, routers: Callable[[], int] = lambda: 1) -> None:
        self._settings = settings
        self._routers = routers
        self._window = RollingWindow(settings.window_s)

    def request(self, now: float) -> None:
        """Count a request of a caller."""
        self._window.add(now, total=1)

    def take(self, now: float) -> bool:
        """Whether a retry or a hedge may be made now; if so it is counted."""
        self._window.forget(now)
        if self._window.marked + 1 > self.allowed:
            return False
        self._window.add(now, marked=1)
        return True

    @property
    def allowed(self) -> float:
        """Retries and hedges that fit the window as it is."""
        routers = max(self._settings.routers, self._routers())
        return self._settings.share * self._window.total + self._settings.floor / routers

    def __repr__(self) -> str:
        return f"<RetryBudget {self._window.marked} of {self.allowed:.3g} for {self._window.total} requests>"
