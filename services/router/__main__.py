"""Run the router: `python -m services.router --config FILE`."""

from __future__ import annotations

from spillway.process import NewLoop, main

from .app import App, build
from .settings import RouterSettings
from .sums import scraped

LOOP: NewLoop | None
"""uvloop's event loop where it can be had: some 5 % less CPU in all, a tenth for tokens of sessions (docs/speed.md)."""
try:
    from uvloop import new_event_loop as LOOP
except ImportError:  # not on Windows
    LOOP = None


def tell(app: App) -> dict[str, str]:
    """What a worker says of itself when it is ready."""
    return {"http": app.http.address if app.http is not None else "", "metrics": app.metrics}


if __name__ == "__main__":
    main("router", RouterSettings, build, tell=tell, beside=scraped, loop=LOOP)
